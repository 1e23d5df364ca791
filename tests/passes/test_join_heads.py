"""Projections to heads are joined, and what follows is laid out for all of them at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from passes.drop_leading_axes import DropLeadingAxes
from passes.fold_constants import FoldConstants
from passes.join_heads import JoinHeads
from passes.reshape_before_split import ReshapeBeforeSplit
from passes.simplify_views import SimplifyViews
from passes.swap_last_axes import SwapLastAxes
from tests.passes.util import Function, assert_same, count, run_pass, seeded

aten = torch.ops.aten
RESHAPES = (aten.reshape.default, aten.unsqueeze.default, aten.squeeze.dims)


class Projections(nn.Module):
    """Queries, keys and values of grouped heads."""

    def __init__(self, heads=(4, 2, 2), width=8, bias=(False, False, False), apart=False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleList(
            nn.Linear(16, n * width, bias=b) for n, b in zip(heads, bias, strict=True)
        )
        self.heads, self.apart = heads, apart

    def forward(self, x):
        found = []
        for n, (part, heads) in enumerate(zip(self.parts, self.heads, strict=True)):
            given = x + n if self.apart else x
            found.append(part(given).view(1, x.shape[1], heads, -1).transpose(1, 2))
        return tuple(found)


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize(
    "options",
    [{}, {"heads": (4, 4, 4)}, {"bias": (True, False, True)}, {"heads": (6, 2, 1), "width": 4}],
)
def test_three_become_one(tokens: int, options: dict):
    model, x = Projections(**options).eval(), seeded(1, tokens, 16)
    _, after, reports = run_pass(model, (x,), SimplifyViews(), JoinHeads(), SimplifyViews())
    assert count(after, aten.linear.default) == 1 and reports[1].rewrites == 3
    assert_same(model, after, (x,))


def test_what_is_read_from_several_values_stays():
    model, x = Projections(apart=True).eval(), seeded(1, 5, 16)
    _, after, (report,) = run_pass(model, (x,), JoinHeads())
    assert count(after, aten.linear.default) == 3 and report.rewrites == 0


def test_heads_of_other_widths_stay():
    class Mixed(Projections):
        def forward(self, x):
            a, b = (part(x) for part in list(self.parts)[:2])
            return a.view(1, -1, 2, 16), b.view(1, -1, 2, 8)

    model, x = Mixed().eval(), seeded(1, 5, 16)
    _, after, (report,) = run_pass(model, (x,), JoinHeads())
    assert report.rewrites == 0 and count(after, aten.linear.default) == 2


def heads(m, x):
    """(1, 64, 1, T) taken apart by channels, each part viewed as heads of 8."""
    return [p.reshape(1, -1, 8, x.shape[3]) for p in torch.split(x, [32, 16, 16], 1)]


def test_one_view_before_a_split():
    model, x = Function(lambda m, x: tuple(heads(m, x * 2))), seeded(1, 64, 1, 5)
    _, after, (report,) = run_pass(model, (x,), ReshapeBeforeSplit())
    assert count(after, *RESHAPES) == 1 and report.rewrites == 3
    assert_same(model, after, (x,), rtol=0, atol=0)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: tuple(torch.split(x, [32, 32], 1)),
        lambda m, x: tuple(p.reshape(1, 8, 8, -1) for p in torch.split(x, [3, 2], 3)),
        lambda m, x: (x.split(32, 1)[0].reshape(1, 4, 8, 5), x.split(32, 1)[1].reshape(1, 8, 4, 5)),
    ],
)
def test_parts_that_are_viewed_otherwise_stay(function):
    model, x = Function(function), seeded(1, 64, 1, 5)
    _, after, (report,) = run_pass(model, (x,), ReshapeBeforeSplit())
    assert report.rewrites == 0
    assert_same(model, after, (x,), rtol=0, atol=0)


def turned(m, x):
    """Scaled heads, turned by half their width, (1, H, T, D) in the end."""
    q, k, v = heads(m, x)
    tables = m.table.reshape(1, 1, 8, 1)
    turned = [torch.cat([-p[:, :, 4:], p[:, :, :4]], 2) * tables + p for p in (q, k)]
    normed = [p * torch.rsqrt(p.pow(2).mean(2, keepdim=True) + 1e-6) for p in turned]
    return tuple(p.permute(0, 1, 3, 2) for p in (normed[0] * 2, turned[1] * 3, v))


@pytest.mark.parametrize("tokens", [1, 5])
def test_axes_are_swapped_once_for_all_heads(tokens: int):
    def plain(m, x):
        q, k, v = (p * 2 for p in heads(m, x))
        tables = m.table.reshape(1, 1, 8, 1)
        q, k = (torch.cat([p[:, :, 4:], p[:, :, :4]], 2) * tables + p for p in (q, k))
        return tuple(p.permute(0, 1, 3, 2) for p in (q, k, v))

    model, x = Function(plain, table=seeded(8)), seeded(1, 64, 1, tokens)
    steps = (SimplifyViews(), ReshapeBeforeSplit(), SwapLastAxes(), FoldConstants())
    _, after, _ = run_pass(model, (x,), *steps)
    assert count(after, aten.permute.default) == (tokens > 1) and count(after, *RESHAPES) == 1
    assert_same(model, after, (x,))


def test_a_stretch_that_is_read_elsewhere_stays():
    model, x = Function(turned, table=seeded(8)), seeded(1, 64, 1, 5)
    _, after, reports = run_pass(model, (x,), ReshapeBeforeSplit(), SwapLastAxes())
    # A mean over the width is none of the operators that change their form.
    assert count(after, aten.permute.default) == 3 and reports[1].rewrites == 0
    assert_same(model, after, (x,))


def test_one_swap_is_not_worth_another():
    model, x = Function(lambda m, x: (x.reshape(1, 8, 8, 5) * 2).permute(0, 1, 3, 2)), seeded(8, 40)
    _, _, (report,) = run_pass(model, (x,), SwapLastAxes())
    assert report.rewrites == 0


@pytest.mark.parametrize(
    "parts",
    [
        lambda p: [p[:, :, i : i + 1] for i in (2, 0, 1)],
        lambda p: [p[:, :, 1:], p[:, :, :1]],
        lambda p: [p[:, :, :1] * 2, p[:, :, 3:4].abs()],
        lambda p: [p[:, :, :1] @ p.transpose(2, 3), p[:, :, 1:2] @ p.transpose(2, 3)],
    ],
)
def test_single_rows_that_are_joined_have_no_other_form(parts):
    def function(m, x):
        return torch.cat(parts(x.reshape(1, 8, 8, 5)), 2).permute(0, 1, 3, 2)

    model, x = Function(function), seeded(8, 40)
    _, after, _ = run_pass(model, (x,), SwapLastAxes())
    assert_same(model, after, (x,), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("function", "left"),
    [
        (lambda m, x: x * m.table[None, None], 0),
        (lambda m, x: x + m.table.sum().reshape(1, 1, 1, 1), 0),
        (lambda m, x: x[0, 0] + m.table[None, None], 1),  # these axes make the result's shape
        (lambda m, x: x * m.table[:, None, None], 1),  # an axis of size one in the middle
    ],
)
def test_leading_axes_are_added_by_broadcasting(function, left: int):
    model, x = Function(function, table=seeded(5, 6)), seeded(5, 5, 5, 6)
    _, after, _ = run_pass(model, (x,), SimplifyViews(), DropLeadingAxes())
    assert_same(model, after, (x,), rtol=0, atol=0)
    assert count(after, *RESHAPES) == left
