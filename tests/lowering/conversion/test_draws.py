"""Random numbers of a package: not torch's, but of the same distribution."""

import coremltools as ct
import pytest
import torch
from torch import nn

from lowering.conversion.converter import convert
from lowering.conversion.torch_ops.draws import TABLE
from lowering.errors import LoweringError
from lowering.reference import predict

aten = torch.ops.aten
SIZE = [40, 50]
X = torch.rand(SIZE, generator=torch.Generator().manual_seed(0))
ODDS = torch.tensor([0.1, 0.0, 0.6, 0.3])

# operator: (call, smallest and largest number, mean, standard deviation)
DRAWS = {
    aten.rand.default: (lambda x: torch.rand(SIZE), 0, 1, 0.5, 0.289),
    aten.randn.default: (lambda x: torch.randn(SIZE), -6, 6, 0.0, 1.0),
    aten.rand_like.default: (torch.rand_like, 0, 1, 0.5, 0.289),
    aten.randn_like.default: (torch.randn_like, -6, 6, 0.0, 1.0),
    aten.randint.low: (lambda x: torch.randint(-3, 5, SIZE), -3, 4, 0.5, 2.29),
    aten.randint.default: (lambda x: aten.randint.default(4, SIZE), 0, 3, 1.5, 1.12),
    aten.bernoulli.default: (torch.bernoulli, 0, 1, 0.5, 0.5),
    aten.bernoulli.p: (lambda x: aten.bernoulli.p(x, 0.3), 0, 1, 0.3, 0.458),
    aten.multinomial.default: (
        lambda x: torch.multinomial(ODDS.to(x.device), 2000, replacement=True),
        0,
        3,
        2.1,
        0.943,
    ),
}


class Draws(nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, x):
        return self.draw(x) + x.sum() * 0


@pytest.mark.parametrize("op", DRAWS, ids=str)
def test_distribution(op):
    draw, low, high, mean, deviation = DRAWS[op]
    mlmodel = convert(
        Draws(draw), (X,), compute_precision=ct.precision.FLOAT32, skip_model_load=True
    )
    (found,) = predict(mlmodel, {"x": X.numpy()}).values()
    assert found.shape == tuple(Draws(draw)(X).shape)
    assert low <= found.min() and found.max() <= high
    # 2,000 numbers: five standard errors.
    assert abs(found.mean() - mean) < 5 * deviation / 2000**0.5
    assert abs(found.std() - deviation) < 0.1


def test_every_draw_is_tested():
    assert set(TABLE) == set(DRAWS)


def test_drawing_without_replacement_is_refused():
    model = Draws(lambda x: torch.multinomial(ODDS, 2))
    with pytest.raises(LoweringError, match="with replacement only"):
        convert(model, (X,), skip_model_load=True)
