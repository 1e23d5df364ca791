"""What cannot run on the ANE stands together in programs with states."""

from __future__ import annotations

from itertools import groupby

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

from frontend.ops import slice_update
from lowering import convert, load
from lowering.conversion.host_order import ordered


class Caches(nn.Module):
    """Two caches that each layer writes and reads."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = layers
        self.linear = nn.Linear(32, 32)
        for name in ("keys", "values"):
            self.register_buffer(name, torch.zeros(layers, 2, 64, 32))

    def forward(self, x, position):
        keys, values = self.keys, self.values
        for layer in range(self.layers):
            begin = position * torch.tensor([0, 0, 1, 0]) + torch.tensor([layer, 0, 0, 0])
            end = begin + torch.tensor([1, 2, 1, 32])
            x = self.linear(x)
            keys = slice_update(keys, x, begin, end)
            x = x * keys[layer : layer + 1].sum(2, keepdim=True)
            values = slice_update(values, x * 2, begin, end)
            x = x + values[layer : layer + 1].mean(2, keepdim=True)
        self.keys.copy_(keys)
        self.values.copy_(values)
        return x


class Pairs(Caches):
    """Both are written before either is read, as attention does."""

    def forward(self, x, position):
        keys, values = self.keys, self.values
        for layer in range(self.layers):
            begin = position * torch.tensor([0, 0, 1, 0]) + torch.tensor([layer, 0, 0, 0])
            end = begin + torch.tensor([1, 2, 1, 32])
            keys = slice_update(keys, self.linear(x), begin, end)
            values = slice_update(values, x * 2, begin, end)
            row = slice(layer, layer + 1)
            x = x + (keys[row] * values[row]).sum(2, keepdim=True)
        self.keys.copy_(keys)
        self.values.copy_(values)
        return x


@pytest.mark.parametrize(
    ("kind", "layers", "stretches"), [(Pairs, 2, 2), (Pairs, 3, 3), (Caches, 2, 4)]
)
def test_writes_stand_together(kind: type[Caches], layers: int, stretches: int):
    model = kind(layers).eval()
    inputs = (torch.randn(1, 2, 1, 32) / 4, torch.tensor([3], dtype=torch.int32))
    converted = convert(model, inputs, minimum_deployment_target=ct.target.iOS18)
    package = load(converted, precision="fp32")
    writes = [op.type == "slice_update" for op in package.ops if op.type != "const"]
    assert sum(here for here, _ in groupby(writes)) == stretches
    assert sum(op.type == "write_state" for op in package.ops) == 2 * layers
    state = package.make_state()
    for position in (3, 4, 3):
        x = torch.randn(1, 2, 1, 32) / 4
        at = torch.tensor([position], dtype=torch.int32)
        found = package({"x": x.numpy(), "position": at.numpy()}, state)
        (value,) = found.values()
        np.testing.assert_allclose(value, model(x, at).detach(), rtol=1e-2, atol=2e-2)


def test_programs_without_states_keep_their_order(monkeypatch: pytest.MonkeyPatch):
    def refused(operations: object) -> None:
        raise AssertionError(operations)

    monkeypatch.setattr("lowering.conversion.host_order.ordered", refused)
    convert(nn.Linear(4, 4), (torch.randn(1, 4),))
    assert ordered([]) == []
