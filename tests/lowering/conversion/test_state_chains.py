"""States written where the program writes them, and only where that changes nothing."""

from __future__ import annotations

from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

from frontend.ops import slice_update
from lowering import convert, load, save


def _at(row: int, position: torch.Tensor, rows: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    start = torch.tensor([row, 0, 0]) + position * torch.tensor([0, 1, 0])
    return start, start + torch.tensor([1, rows, 4])


class Chain(nn.Module):
    """Two layers that write and read in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.zeros(2, 32, 4))

    def forward(self, x, position):
        first = slice_update(self.cache, x, *_at(0, position))
        y = x + first[:1].sum(1, keepdim=True)
        second = slice_update(first, y, *_at(1, position))
        self.cache.copy_(second)
        return second[1:].sum(1)


class ReadsTheOld(Chain):
    """The value before the writes is read after them."""

    def forward(self, x, position):
        old = self.cache * 1.0
        result = super().forward(x, position)
        return result + old.sum((0, 1))


class WritesTwoVersions(Chain):
    """Two chains start at one value; one of them is stored."""

    def forward(self, x, position):
        aside = slice_update(self.cache, x * 2, *_at(1, position))
        stored = slice_update(self.cache, x, *_at(0, position))
        self.cache.copy_(stored)
        return aside.sum((0, 1)) - stored.sum((0, 1))


class StoresAnother(Chain):
    """What is stored is computed from the last write."""

    def forward(self, x, position):
        written = slice_update(self.cache, x, *_at(0, position))
        self.cache.copy_(written * 0.5)
        return written.sum((0, 1))


class StoresNothing(Chain):
    """The write is seen in the result alone."""

    def forward(self, x, position):
        return slice_update(self.cache + x, x, *_at(0, position)).sum((0, 1))


@pytest.mark.parametrize(
    "model", [Chain, ReadsTheOld, WritesTwoVersions, StoresAnother, StoresNothing]
)
def test_steps_are_those_of_the_module(model: type[Chain], tmp_path: Path):
    module = model().eval()
    inputs = (torch.zeros(1, 1, 4), torch.zeros(1, dtype=torch.int32))
    package = save(
        convert(module, inputs, minimum_deployment_target=ct.target.iOS18), tmp_path / "m"
    )
    function = load(package, precision="fp32")
    state = function.make_state()
    for position in (0, 1, 7):
        x = torch.randn(1, 1, 4)
        given = {"x": x, "position": torch.tensor([position], dtype=torch.int32)}
        (found,) = function(given, state).values()
        expected = module(**given)
        np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-4, atol=1e-5)


def test_each_write_of_a_chain_is_stored_at_once():
    inputs = (torch.zeros(1, 1, 4), torch.zeros(1, dtype=torch.int32))
    package = convert(Chain().eval(), inputs, minimum_deployment_target=ct.target.iOS18)
    kinds = [op.op_type for op in package._mil_program.functions["main"].operations]
    kept = [kind for kind in kinds if kind in ("slice_update", "coreml_update_state")]
    assert kept == ["slice_update", "coreml_update_state"] * 2


class Neighbours(nn.Module):
    """States whose new values are computed one right behind the other."""

    def __init__(self, count: int) -> None:
        super().__init__()
        for index in range(count):
            self.register_buffer(f"state_{index}", torch.zeros(1, 4))

    def forward(self, x):
        result = sum(buffer for buffer in self._buffers.values()) + x
        new = [torch.cat([b[:, 1:], x[:, :1] * i], 1) for i, b in enumerate(self._buffers.values())]
        for buffer, value in zip(self._buffers.values(), new, strict=True):
            buffer.copy_(value)
        return result


@pytest.mark.parametrize("count", [1, 2, 4])
def test_states_stored_side_by_side(count: int, tmp_path: Path):
    module = Neighbours(count).eval()
    x = torch.randn(1, 4)
    package = convert(module, (x,), minimum_deployment_target=ct.target.iOS18)
    function = load(save(package, tmp_path / "m"), precision="fp32")
    state = function.make_state()
    for _ in range(3):
        (found,) = function({"x": x}, state).values()
        np.testing.assert_allclose(found, module(x), rtol=1e-3, atol=1e-5)
