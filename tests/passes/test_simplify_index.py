"""Gathers by constant indices become slices where they can."""

import pytest
import torch

from passes.fold_constants import FoldConstants
from passes.simplify_index import SimplifyIndex
from tests.passes.util import Function, assert_same, count, reasons, run_pass, seeded

aten = torch.ops.aten
X = seeded(2, 6, 4)
GATHERS = (aten.index.Tensor, aten.index_select.default)


# name: (function, slices after)
CASES = {
    "mask_of_transformers": (
        lambda m, x: x[:, :, 0][m.rows.view(2, 1, 1, 1) * 0, m.six.view(1, 1, 1, 6)][:1],
        None,
    ),
    "whole_axis": (lambda m, x: x[:, m.six], 0),
    "range": (lambda m, x: x[:, m.six[2:5]], 1),
    "single": (lambda m, x: x[:, m.six[3:4]], 1),
    "negative": (lambda m, x: x[:, m.six[:3] - 3], 1),
    "two_ranges": (lambda m, x: x[m.rows[:, None], m.six[1:4][None]], 1),
    "broadcast": (lambda m, x: x[m.rows[1:2, None], m.six[None, :]], 1),
    "repeated": (lambda m, x: x[m.six[:1].expand(3)], None),
    "index_select": (lambda m, x: x.index_select(1, m.six[2:4]), 1),
    "rolled": (lambda m, x: torch.roll(x, 2, 1), 2),
    "rolled_twice": (lambda m, x: torch.roll(x, (1, -1), (1, 2)), 4),
    "two_runs": (lambda m, x: x[:, m.runs], 2),
}


def build(function):
    runs = torch.tensor([4, 5, 0, 1, 2])
    return Function(function, six=torch.arange(6), rows=torch.arange(2), runs=runs)


@pytest.mark.parametrize("name", CASES)
def test_becomes_slices(name):
    function, slices = CASES[name]
    model = build(lambda m, x: function(m, x + 1) * 2)
    before, after, (_, report) = run_pass(model, X, FoldConstants(), SimplifyIndex())
    assert count(before, *GATHERS) >= 1
    assert count(after, *GATHERS) == 0 and not report.declined
    if slices is not None:
        assert count(after, aten.slice.Tensor) == slices
    assert_same(model, after, X, rtol=0, atol=0)
    with pytest.raises(AssertionError):
        assert_same(build(lambda m, x: function(m, x + 1.001) * 2), after, X)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda m, x: x[:, m.swapped], "not neighbours in order"),
        (lambda m, x: x[:, m.swapped[None]], "not neighbours in order"),
        (lambda m, x: x[:, m.six.flip(0)], "not neighbours in order"),
        (lambda m, x: x[m.rows, m.rows], "not neighbours in order"),
        (lambda m, x: x[m.six[None, :2], m.six[:2, None]], "not neighbours in order"),
        (lambda m, x: x[m.six[:2], :, m.six[:2]], "skip an axis"),
        (lambda m, x: x[:, x[0, :, 0].argsort()], "depend on an input"),
    ],
)
def test_refusals(function, reason):
    model = build(function)
    model.register_buffer("swapped", torch.tensor([1, 3, 0, 2, 5, 4]))
    _, after, (_, report) = run_pass(model, X, FoldConstants(), SimplifyIndex())
    assert reason in reasons(report)[0] and report.rewrites == 0
    assert_same(model, after, X, rtol=0, atol=0)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x[:, m.six[1:3]],
        lambda m, x: x[:, m.runs],
        lambda m, x: x[:, m.six],
        lambda m, x: torch.roll(x, 1, 1),
    ],
)
def test_dynamic_size_beside_the_index(function):
    dims = ({2: torch.export.Dim("width", min=2, max=64)},)
    model = build(lambda m, x: function(m, x) + 1)
    passes = (FoldConstants(), SimplifyIndex())
    _, after, (_, report) = run_pass(model, (X,), *passes, dynamic_shapes=dims)
    assert count(after, *GATHERS) == 0 and not report.declined
    assert_same(model, after, seeded(2, 6, 9), rtol=0, atol=0)


def test_dynamic_size_with_index_blocks_is_declined():
    dims = ({2: torch.export.Dim("width", min=2, max=64)},)
    model = build(lambda m, x: x[m.rows[:, None], m.six[None]])
    passes = (FoldConstants(), SimplifyIndex())
    _, after, (_, report) = run_pass(model, (X,), *passes, dynamic_shapes=dims)
    assert "dynamic" in reasons(report)[0]
    assert_same(model, after, seeded(2, 6, 9), rtol=0, atol=0)


BATCH, TOKENS = torch.export.Dim("batch", min=2, max=8), torch.export.Dim("tokens", min=3, max=64)


def walks(x):
    """Indices that count up along the dynamic axes of ``x`` (B, S)."""
    batch, tokens = torch.arange(x.shape[0]), torch.arange(x.shape[1])
    return batch[:, None, None], tokens[None, None, :]


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x[walks(x)],  # as transformers builds its masks
        lambda m, x: x[torch.tensor([[0]]), torch.arange(x.shape[1])[:, None]],
        lambda m, x: x[:, torch.arange(x.shape[1])],
        lambda m, x: x[torch.arange(x.shape[0])],
    ],
)
def test_walks_over_dynamic_axes(function):
    model = Function(lambda m, x: function(m, x * 2) + 1)
    dims = ({0: BATCH, 1: TOKENS},)
    x = seeded(3, 6)
    before, after, (_, report) = run_pass(
        model, (x,), FoldConstants(), SimplifyIndex(), dynamic_shapes=dims
    )
    assert count(before, aten.index.Tensor) == 1
    assert count(after, *GATHERS) == 0 and not report.declined
    for shape in ((3, 6), (2, 17)):
        assert_same(model, after, seeded(*shape), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        # Backwards, one less, another axis' size, and a walk that is turned.
        (lambda m, x: x[:, torch.arange(x.shape[1]).flip(0)], "depend on an input"),
        (lambda m, x: x[:, torch.arange(x.shape[1] - 1)], "depend on an input"),
        (
            lambda m, x: x[torch.arange(x.shape[0])[None, :], torch.arange(x.shape[1])[:, None]],
            "out of order",
        ),
    ],
)
def test_near_walks_are_declined(function, reason):
    model = Function(function)
    dims = ({0: BATCH, 1: TOKENS},)
    _, after, (_, report) = run_pass(
        model, (seeded(3, 6),), FoldConstants(), SimplifyIndex(), dynamic_shapes=dims
    )
    assert reason in reasons(report)[0] and report.rewrites == 0
    assert_same(model, after, seeded(4, 9), rtol=0, atol=0)
