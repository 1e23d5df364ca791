"""Bags of equal and of different sizes, fixed by the program."""

import coremltools as ct
import pytest
import torch
from torch import nn

import passes
from lowering import convert, predict
from lowering.errors import LoweringError

WORDS = torch.tensor([[3, 0, 8], [8, 1, 2]])
STARTS = torch.tensor([0, 1, 4])


class Bag(nn.Module):
    def __init__(self, starts=None, weighted=False, **options):
        super().__init__()
        torch.manual_seed(0)
        self.bag = nn.EmbeddingBag(9, 4, **options)
        self.register_buffer("starts", starts)
        self.register_buffer("weights", torch.randn(6) if weighted else None)

    def forward(self, x):
        return self.bag(x, self.starts, per_sample_weights=self.weights)


def packaged(model, x):
    mlmodel = convert(
        passes.optimize_for_ane(model, (x,)),
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    return lambda given: torch.from_numpy(predict(mlmodel, {"x": given})["output"])


@pytest.mark.parametrize(
    "model, x",
    [
        *((Bag(mode=mode), WORDS) for mode in ("sum", "mean", "max")),
        *((Bag(STARTS, mode=mode), WORDS.flatten()) for mode in ("sum", "mean")),
        (Bag(STARTS, True, mode="sum"), WORDS.flatten()),
        (Bag(torch.tensor([0, 2, 6]), mode="mean", include_last_offset=True), WORDS.flatten()),
    ],
)
def test_bags(model, x):
    run = packaged(model, x)
    for given in (x, x.flip(-1)):
        torch.testing.assert_close(run(given), model(given))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(run(x), model((x + 1) % 9))


@pytest.mark.parametrize(
    "model, x, expected",
    [
        (Bag(mode="sum", padding_idx=0), WORDS, "no padding_idx"),
        (Bag(STARTS, mode="max"), WORDS.flatten(), "bags of one size"),
    ],
)
def test_refusals(model, x, expected):
    with pytest.raises(LoweringError, match=expected):
        packaged(model, x)
