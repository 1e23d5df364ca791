"""Tensors that no package can hold: each refused by one clear error."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from frontend.capturing import capture
from frontend.errors import CaptureError
from passes import optimize_for_ane

EYE = torch.eye(4)


class Calls(nn.Module):
    def __init__(self, function=lambda x: x * 2):
        super().__init__()
        self.function = function

    def forward(self, x, other=None):
        return self.function(x)


class Cache:
    def update(self, keys, values):
        return keys, values

    def get_seq_length(self):
        return 0


INPUTS = {
    "sparse": (EYE.to_sparse(), "sparse_coo tensor of shape [4, 4]", "to_dense"),
    "rows": (EYE.to_sparse_csr(), "sparse_csr tensor", "to_dense"),
    "nested": (torch.nested.nested_tensor([EYE, EYE[:2]]), "nested tensor", "to_padded_tensor"),
    "jagged": (
        torch.nested.nested_tensor([EYE, EYE[:2]], layout=torch.jagged),
        "nested tensor",
        "to_padded_tensor",
    ),
    "quantised": (torch.quantize_per_tensor(EYE, 0.1, 0, torch.qint8), "quantised", "dequantize"),
    "meta": (EYE.to("meta"), "meta device", "cpu"),
    "object": (SimpleNamespace(x=EYE), "SimpleNamespace", "inside forward"),
    "cache": (Cache(), "Cache", "ane-passes export-llm"),
}


@pytest.mark.parametrize("nest", [lambda v: v, lambda v: {"a": [v]}])
@pytest.mark.parametrize("name", INPUTS)
def test_inputs(name, nest):
    value, found, hint = INPUTS[name]
    if isinstance(value, Cache) and nest(value) is not value:
        found, hint = "Cache", "inside forward"
    with pytest.raises(CaptureError) as raised:
        capture(Calls(), (EYE,), kwargs={"other": nest(value)})
    details = raised.value.details
    assert details["op"].startswith("other")
    assert found in details["found"] and hint in details["next step"]


@pytest.mark.parametrize("weight", [EYE.to_sparse(), EYE.to_sparse_csr(), EYE.to("meta")])
def test_weights(weight):
    model = Calls()
    model.register_buffer("adjacency", weight)
    with pytest.raises(CaptureError) as raised:
        capture(model, (EYE,))
    assert raised.value.details["op"] == "adjacency"


def test_weights_that_the_first_call_makes():
    with pytest.raises(CaptureError, match="no weights yet") as raised:
        capture(nn.Sequential(nn.LazyLinear(4)), (EYE,))
    assert "call the model once" in raised.value.details["next step"]


@pytest.mark.parametrize("function", [
    lambda x: torch.sparse.mm(EYE.to_sparse(), x),
    lambda x: x.to_sparse().to_dense(),
    lambda x: torch.sparse_coo_tensor(torch.tensor([[0], [1]]), torch.ones(1), (4, 4)) @ x,
    lambda x: torch.nested.nested_tensor([x[0], x[1]]).to_padded_tensor(0.0),
])  # fmt: skip
def test_values_within(function):
    with pytest.raises(CaptureError) as raised:
        optimize_for_ane(Calls(function), (EYE,))
    assert "test_tensor_kinds.py" in raised.value.details["source"]


def test_constants_that_another_trace_left():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.kept = None

        def forward(self, x):
            self.kept = x if self.kept is None else self.kept
            return x + self.kept

    model = Model()
    with torch._subclasses.FakeTensorMode() as mode:
        model.kept = mode.from_tensor(torch.ones(4))
    with mode, pytest.raises(CaptureError, match=r"no data|could not be run"):
        capture(model, (torch.ones(4),))
