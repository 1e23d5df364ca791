"""Chains of views are shortened."""

import pytest
import torch

from passes.simplify_views import SimplifyViews
from tests.passes.util import Function, assert_same, count, run_pass, seeded

aten = torch.ops.aten
X = seeded(2, 3, 4, 5)
MOVES = (
    aten.permute.default,
    aten.reshape.default,
    aten.squeeze.dims,
    aten.unsqueeze.default,
)

# name: (function, views before, views after)
CASES = {
    "permute_and_back": (lambda m, x: x.permute(0, 2, 1, 3).relu().permute(0, 2, 1, 3), 2, 2),
    "permutes_cancel": (lambda m, x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2), 2, 0),
    "permutes_compose": (lambda m, x: x.permute(0, 2, 3, 1).permute(3, 1, 0, 2), 2, 1),
    "negative_axes": (lambda m, x: x.transpose(-1, -2).transpose(2, 3), 2, 0),
    "permute_that_does_nothing": (lambda m, x: x.permute(0, 1, 2, 3), 1, 0),
    "reshapes_compose": (lambda m, x: x.reshape(6, 20).reshape(3, 2, 4, 5), 2, 1),
    "reshapes_cancel": (lambda m, x: x.reshape(6, 20).reshape(2, 3, 4, 5), 2, 0),
    "unsqueezes": (lambda m, x: x[:, None, :, None].squeeze(3).squeeze(1), 4, 0),
    "squeeze_reshape": (lambda m, x: x.unsqueeze(0).reshape(2, 12, 5), 2, 1),
    "axes_of_size_one": (lambda m, x: x[:, :1].sum(2, True).permute(0, 2, 1, 3), 1, 0),
    "axis_of_size_one_moves": (lambda m, x: x[:, :1].permute(0, 2, 1, 3), 1, 1),
    "moves_around_a_reshape_cancel": (
        lambda m, x: x.permute(0, 2, 3, 1).reshape(2, 20, 3).permute(0, 2, 1),
        3,
        1,
    ),
    "moves_around_a_reshape_join": (
        lambda m, x: x.permute(0, 2, 3, 1).reshape(2, 4, 15).permute(2, 0, 1),
        3,
        2,
    ),
    "moves_around_two_reshapes": (
        lambda m, x: (
            x.permute(0, 2, 3, 1).reshape(2, 20, 3).reshape(2, 1, 20, 3).permute(0, 3, 1, 2)
        ),
        4,
        1,
    ),
    "moves_around_three_reshapes": (
        lambda m, x: (
            x.permute(0, 2, 3, 1)
            .reshape(40, 3)
            .reshape(2, 20, 3)
            .reshape(2, 4, 5, 3)
            .permute(3, 0, 1, 2)
        ),
        5,
        1,
    ),
    "windows": (
        lambda m, x: (
            x.reshape(2, 3, 2, 2, 5).permute(0, 2, 1, 3, 4).reshape(4, 3, 2, 5).permute(0, 3, 1, 2)
        ),
        4,
        3,
    ),
    "a_reshape_that_mixes_what_is_moved": (
        lambda m, x: x.permute(0, 2, 3, 1).reshape(2, 10, 2, 3).permute(0, 2, 1, 3),
        3,
        3,
    ),
    "three": (lambda m, x: x.flatten(2).unflatten(2, (4, 5)).flatten(1), 3, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_shortens(name):
    function, views_before, views_after = CASES[name]
    model = Function(lambda m, x: function(m, x + 1) * 2)
    before, after, (report,) = run_pass(model, X, SimplifyViews())
    assert (count(before, *MOVES), count(after, *MOVES)) == (views_before, views_after)
    assert (report.rewrites > 0) == (views_before > views_after or "size_one" in name)
    assert not report.declined
    assert_same(model, after, X, rtol=0, atol=0)
    with pytest.raises(AssertionError):
        assert_same(Function(lambda m, x: function(m, x + 1.001) * 2), after, X)


def test_moving_an_axis_of_size_one_is_no_permutation():
    model = Function(lambda m, x: x[:, :1].permute(0, 2, 1, 3))
    _, after, _ = run_pass(model, X, SimplifyViews())
    assert count(after, aten.permute.default) == 0
    assert_same(model, after, X, rtol=0, atol=0)


def test_shared_inner_view_stays():
    def function(m, x):
        inner = x.permute(0, 2, 3, 1)
        return inner * 2, inner.permute(0, 3, 1, 2) + 1

    _, after, _ = run_pass(Function(function), X, SimplifyViews())
    assert count(after, aten.permute.default) == 1
    assert_same(Function(function), after, X, rtol=0, atol=0)


def test_a_view_between_that_is_read_keeps_its_move():
    def function(m, x):
        tokens = x.permute(0, 2, 3, 1).reshape(2, 20, 3)
        return tokens.cumsum(1), tokens.reshape(2, 1, 20, 3).permute(0, 3, 1, 2) + 1

    _, after, _ = run_pass(Function(function), X, SimplifyViews())
    assert count(after, aten.permute.default) == 2
    assert_same(Function(function), after, X, rtol=0, atol=0)


def test_outputs_that_become_inputs():
    model = Function(lambda m, x: x.transpose(1, 2).transpose(1, 2))
    _, after, _ = run_pass(model, X, SimplifyViews())
    assert count(after, aten.permute.default) == 0
    assert_same(model, after, X, rtol=0, atol=0)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x.transpose(1, 2).transpose(1, 2) + 1,
        lambda m, x: x.reshape(2, -1, 20).reshape(2, x.shape[1], 4, 5) + 1,
        lambda m, x: x.permute(0, 2, 3, 1).permute(3, 1, 0, 2) + 1,
        lambda m, x: x.unsqueeze(1).squeeze(1) + 1,
        lambda m, x: x[:1].permute(1, 0, 2, 3) + 1,
    ],
)
def test_dynamic_size(function):
    dims = ({1: torch.export.Dim("tokens", min=2, max=64)},)
    model = Function(function)
    before, after, _ = run_pass(model, (X,), SimplifyViews(), dynamic_shapes=dims)
    assert count(after, *MOVES) <= count(before, *MOVES)
    assert_same(model, after, seeded(2, 7, 4, 5), rtol=0, atol=0)
