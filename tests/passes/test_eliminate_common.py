"""Equal computations run once."""

import pytest
import torch
from torch import nn

from passes.eliminate_common import EliminateCommon
from tests.passes.util import (
    Function,
    assert_differs_when_perturbed,
    assert_same,
    count,
    run_pass,
    seeded,
)

aten = torch.ops.aten
X = seeded(2, 8)


def test_equal_operators_merge():
    model = Function(lambda m, x: x.exp() * m.w + x.exp() * m.w, w=seeded(8))
    before, after, (report,) = run_pass(model, X, EliminateCommon())
    assert (count(before, aten.exp.default), count(after, aten.exp.default)) == (2, 1)
    assert (count(after, aten.mul.Tensor), report.rewrites) == (1, 2)
    assert_same(model, after, X)
    assert_differs_when_perturbed(after, model, X)


def test_equal_lists_and_parts_merge():
    model = Function(lambda m, x: x.split([3, 5], 1)[0] * x.split([3, 5], 1)[0])
    _, after, _ = run_pass(model, X, EliminateCommon())
    splits = (aten.split_with_sizes.default, aten.split.Tensor)
    assert count(after, *splits) == 1
    assert_same(model, after, X)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: torch.cat([x.sum(0), x.sum(1)]),
        lambda m, x: (x + 1, x + 2),
        lambda m, x: (x - x.abs(), x.abs() - x),
        lambda m, x: (x.argmax(0), x.argmax(1)),
        lambda m, x: (x.sum(0), x.sum(0, keepdim=True)),
        lambda m, x: (x.softmax(0), x.softmax(1)),
        lambda m, x: (torch.full_like(x, 1), torch.full_like(x, 1, dtype=torch.int32)),
        lambda m, x: (1 / (x * 0.0), 1 / (x * -0.0)),
        lambda m, x: (x.int() + 1, x.int() + 1.0, x.int() + True),
    ],
)
def test_different_operators_stay(function):
    model = Function(function)
    _, after, _ = run_pass(model, X, EliminateCommon())
    assert_same(model, after, X.abs())


def test_random_numbers_stay():
    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x), x + torch.rand_like(x)

    _, after, (report,) = run_pass(Noise(), X, EliminateCommon())
    assert report.rewrites == 0
    assert count(after, aten.rand_like.default, aten.rand.default) == 2


def test_outputs_keep_nodes_of_their_own():
    model = Function(lambda m, x: {"a": x.exp(), "b": x.exp()})
    _, after, _ = run_pass(model, X, EliminateCommon())
    assert list(after.graph_signature.user_outputs) == ["a", "b"]
    assert_same(model, after, X)


def test_states_are_written_as_before():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("one", torch.zeros(8))
            self.register_buffer("two", torch.zeros(8))

        def forward(self, x):
            self.one += x.sum(0)
            self.two += x.sum(0)
            return self.one + self.two

    _, after, _ = run_pass(Counter(), X, EliminateCommon())
    assert len(after.graph_signature.buffers_to_mutate) == 2
    assert_same(Counter(), after, X)


def test_dynamic_sizes():
    model = Function(lambda m, x: x.reshape(x.shape[0] * 8).sum() + x.reshape(x.shape[0] * 8))
    dims = {0: torch.export.Dim("n", min=2, max=64)}
    _, after, _ = run_pass(model, (X,), EliminateCommon(), dynamic_shapes=(dims,))
    assert count(after, aten.reshape.default) == 1
    for n in (2, 7):
        assert_same(model, after, seeded(n, 8))
