"""Numbers taken out of tensors stay tensors; indices that depend on data gather and write."""

from __future__ import annotations

import math

import pytest
import torch

from frontend.branches import BranchError, UncheckedPathWarning
from tests.frontend.branch_harness import assert_same, count, export, function_module, random_cases

CASES = random_cases((4, 3, 5))
PLACES = [(case[0], torch.tensor(i)) for case, i in zip(CASES, [0, 1, 2, 0, -1], strict=False)]


def checked(function, cases, inexact=False):
    """As ``assert_same``; eager mode computes numbers in double precision."""
    model = function_module(function)
    if not inexact:
        return assert_same(model, cases)
    program = export(model, *cases[0])
    for case in cases:
        torch.testing.assert_close(program.module()(*case), model(*case), rtol=1e-5, atol=1e-5)
    return program


NUMBERS = {
    "times": lambda self, x: x * x.sum().item(),
    "reflected": lambda self, x: 1 - x.mean().item() + x,
    "of_numbers": lambda self, x: x / (1 + abs(x.sum().item()) % 3),
    "floor": lambda self, x: x + math.floor(x.sum().item()),
    "round": lambda self, x: x + round(x.mean().item() * 10),
    "whole": lambda self, x: x + (x > 0).sum().item() // 2,
    "bound": lambda self, x: x.clamp(max=x.mean().item()),
    "larger": lambda self, x: x * max(x.sum().item(), 1.0),
    "full": lambda self, x: torch.full((4, 3, 5), x.mean().item()) + x,
    "filled": lambda self, x: x.masked_fill(x > 0, x.min().item()),
    "written": lambda self, x: x.clone().fill_(x.max().item()),
    "tensor": lambda self, x: x * torch.tensor(x.sum().item()),
    "tensor_of_list": lambda self, x: x[..., :2] * torch.tensor([x[0, 0, 0].item(), 2]),
    "branch": lambda self, x: x * 2 if x.sum().item() > 0 else x - 1,
}


@pytest.mark.parametrize("name", NUMBERS)
def test_item_stays_a_tensor(name):
    checked(NUMBERS[name], CASES, inexact=True)


def test_an_assertion_on_data_is_assumed_to_hold():
    def forward(self, x):
        largest = x.abs().max().item()
        assert largest <= 1000, f"{largest:.2f} is too large"
        return x + 1

    with pytest.warns(UncheckedPathWarning, match="is too large"):
        program = assert_same(function_module(forward), CASES)
    assert count(program, torch.ops.aten.where.self) == 0


def test_a_copy_is_taken_of_what_is_written_later():
    def forward(self, x):
        y = x + 1
        first = y[0, 0, 0].item()
        y.mul_(3)
        return y + first

    checked(forward, CASES, inexact=True)


def write(body):
    def forward(self, x, i):
        y = x.clone()
        body(y, i)
        return y

    return forward


def added(y, i):
    y[i] += 1


READS = {
    "row": lambda self, x, i: x[i],
    "column": lambda self, x, i: x[:, i],
    "behind_dots": lambda self, x, i: x[..., i],
    "with_numbers": lambda self, x, i: x[i, :, 1],
    "with_a_new_axis": lambda self, x, i: x[None, :, i],
    "item": lambda self, x, i: x[i.item()],
    "computed": lambda self, x, i: x[1 - i],
    "of_two": lambda self, x, i: x[i, 1:, i],
    "argmax": lambda self, x, i: x[x[:, 0, 0].argmax()],
    "narrow": lambda self, x, i: x.narrow(1, i % 3, 1),
}
WRITES = {
    "number": write(lambda y, i: y.__setitem__(i, 1.0)),
    "tensor": write(lambda y, i: y.__setitem__((slice(None), i), y[:, 0] * 2)),
    "broadcast": write(lambda y, i: y.__setitem__((slice(None), i), y[0, 0])),
    "item": write(lambda y, i: y.__setitem__((i.item(), 1), 4.0)),
    "leading_ones": write(lambda y, i: y.__setitem__((slice(None), i), y[None, None, :, 0] * 2)),
    "new_axis": write(lambda y, i: y.__setitem__((slice(None), i, None), y[:, 0, None] * 2)),
    "behind_dots": write(lambda y, i: y.__setitem__((i, ..., 1), y[1, :, 1])),
    "two": write(lambda y, i: y.__setitem__((i, slice(None), i), y[0, :, 0] + 1)),
    "added": write(added),
}
SLICES = {
    "one": lambda self, x, i: x[i : i + 1],
    "two": lambda self, x, i: x[:, :, i + 1 : i + 3],
    "item": lambda self, x, i: x[:, i.item() : i.item() + 1],
    "ahead": lambda self, x, i: x[:, i - 1 + 1 : i + 1],
    "write_one": write(lambda y, i: y.__setitem__((slice(None), slice(i, i + 1)), y[:, :1] + 1)),
    "write_two": write(lambda y, i: y.__setitem__((..., slice(i, i + 2)), y[..., :2] + 1)),
    "write_number": write(lambda y, i: y.__setitem__((slice(i, i + 1), 1), 7.0)),
}


@pytest.mark.parametrize("name", [*READS, *WRITES])
def test_places_that_depend_on_data(name):
    checked({**READS, **WRITES}[name], PLACES)


@pytest.mark.parametrize("name", SLICES)
def test_slices_of_a_known_size(name):
    checked(SLICES[name], [case for case in PLACES if case[1] >= 0])


def test_a_write_of_one_place_is_a_mask():
    program = checked(WRITES["number"], PLACES)
    assert count(program, torch.ops.aten.where.self) == 1
    assert count(program, torch.ops.aten.index_put.default) == 0


def test_a_slice_of_unknown_size_is_refused():
    with pytest.raises(BranchError, match="range"):
        export(function_module(lambda self, x, i: x[i:]), *PLACES[0])


@pytest.mark.parametrize("axis", [0, 1])
def test_a_write_that_eager_mode_makes_through_a_view_is_refused(axis):
    def forward(self, x, i):
        y = x.clone()
        taken = y.select(0, 1)[i] if axis else y[i]
        taken.mul_(2)
        return y

    with pytest.raises(BranchError, match="written in place") as caught:
        export(function_module(forward), *PLACES[0])
    assert "taken = " in caught.value.details["source"]
