"""Sizes are compared without a question to torch, which would add a guard."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import Dim

from frontend.capturing import capture
from frontend.sizes import expression, same_size, same_sizes


class Doubled(nn.Module):
    def forward(self, x, y):
        return torch.cat([x, x]), torch.cat([x, y]), x + 1


@pytest.fixture
def shapes():
    dims = {"x": {0: Dim("n", min=2, max=9)}, "y": {0: Dim("m", min=2, max=9)}}
    program = capture(Doubled(), (torch.zeros(3, 4), torch.zeros(5, 4)), dynamic_shapes=dims)
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    return [node.meta["val"].shape for node in output.args[0]], program


def test_numbers():
    assert same_size(3, 3) and not same_size(3, 4)
    assert same_sizes((2, 3), [2, 3]) and not same_sizes((2, 3), (2, 3, 1))


def test_symbols_are_told_apart(shapes):
    (twice, sum_, once), _ = shapes
    assert same_sizes(once, once) and not same_sizes(twice, once)
    assert not same_sizes(twice, sum_) and not same_size(once[0], 3)


def test_different_spellings_of_a_size_are_one(shapes):
    (twice, sum_, once), _ = shapes
    assert same_size(2 * (once[0] + 1), twice[0] + 2)
    assert same_size(sum_[0] - once[0] + once[0], sum_[0])
    assert expression(once[0] - once[0] + 1) == 1 == expression(1)
    assert len({expression(2 * (once[0] + 1)), expression(twice[0] + 2)}) == 1


def test_comparing_adds_no_guard(shapes):
    (twice, sum_, once), program = shapes
    env = once[0].node.shape_env
    before = len(env.guards)
    same_sizes(twice, sum_), same_sizes(twice, once), expression(once[0])
    assert len(env.guards) == before
    assert len(program.range_constraints) == 2
