"""Stock coremltools: what it converts, and what it says where it cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from benchmarks import stock
from lowering.planner.mil_stats import mil_stats
from lowering.reference import predict


@pytest.fixture(scope="module")
def bert() -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
    )
    return BertModel(config, add_pooling_layer=False).eval()


# coremltools 9.0 takes int() of arrays with one element, which numpy 2.4 refuses.
NEEDS_OLD_NUMPY = pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) >= "2.4.0", reason="stock's trace needs numpy below 2.4"
)


def test_additive_mask():
    mask = stock.additive_mask(torch.tensor([[1, 1, 0]]))
    assert mask.shape == (1, 1, 3, 3)
    assert mask[0, 0].tolist() == [[0.0, 0.0, stock.MASKED]] * 3
    assert torch.isfinite(mask.half()).all()


@NEEDS_OLD_NUMPY
def test_ready_mask_is_the_same_model_and_converts(bert: nn.Module):
    ids = torch.randint(50, (1, 16))
    attention_mask = (torch.arange(16) < 10).long()[None]
    ready = stock.ReadyMask(bert)
    inputs = (ids, stock.additive_mask(attention_mask))
    with torch.no_grad():
        want = bert(input_ids=ids, attention_mask=attention_mask)[0]
        torch.testing.assert_close(ready(*inputs), want)
    converted = stock.stock_convert(ready, inputs)
    assert mil_stats(converted.mlmodel).count("linear") == 6
    assert converted.convert_seconds > 0 and converted.capture_seconds > 0
    names = [entry.name for entry in converted.mlmodel.get_spec().description.input]
    found = predict(converted.mlmodel, dict(zip(names, inputs, strict=True)))
    (got,) = found.values()
    torch.testing.assert_close(torch.from_numpy(got).float(), want, rtol=2e-2, atol=2e-2)


@NEEDS_OLD_NUMPY
def test_the_masks_of_hugging_face_fail(bert: nn.Module):
    inputs = {"input_ids": torch.randint(50, (1, 16)), "attention_mask": torch.ones(1, 16).long()}
    failures = stock.stock_failures(bert, inputs)
    assert set(failures) == {"trace", "export"}
    assert all("new_ones" in message for message in failures.values())


def test_no_failures():
    class Double(nn.Module):
        def forward(self, x: torch.Tensor, return_dict: bool = False) -> torch.Tensor:
            return x * 2

    assert stock.stock_failures(Double().eval(), {"x": torch.ones(2)}) == {}
