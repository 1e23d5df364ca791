"""Conditions on dynamic sizes that torch cannot prove are decided size by size."""

import math

import pytest
import torch
from torch import nn
from torch.export import Dim

from frontend.capturing import capture
from frontend.errors import SizeError
from frontend.program import runnable
from frontend.size_guards import NarrowedSizeWarning


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def captured(function, low=4, high=32):
    x = torch.randn(1, 9, 6)
    return capture(Calls(function), (x,), dynamic_shapes={"x": {1: Dim("n", min=low, max=high)}})


def half(x):
    return x[:, : x.shape[1] // 2]


def halves(x):
    n = x.shape[1]
    return torch.cat([x[:, n // 2 :], x[:, : n // 2]], 1)


def middle_third(x):
    n = x.shape[1]
    return x[:, n // 3 : 2 * n // 3].mean(1)


def rounded_up(x):
    return x[:, : (x.shape[1] + 1) // 2].sum(1)


def smaller_of_two(x):
    n = x.shape[1]
    return x * 2 if min(2 + n, 4 + 2 * n) == 2 + n else x * 3


def one_size_is_contiguous(x):
    return torch.zeros(1, 32, 6)[:, : x.shape[1]].reshape(-1, 6) + x[0]


@pytest.mark.parametrize(
    "function", [half, halves, middle_third, rounded_up, smaller_of_two, one_size_is_contiguous]
)
def test_the_whole_range_is_taken(function):
    program = captured(function)
    (constraint,) = program.range_constraints.values()
    assert (constraint.lower, constraint.upper) == (4, 32)
    module = runnable(program)
    for n in (4, 5, 9, 31, 32):
        x = torch.randn(1, n, 6)
        torch.testing.assert_close(module(x)[0], function(x))


def only_short(x):
    return x * 2 if x.shape[1] <= 10 else x * 3


def all_but_one(x):
    return x * 2 if x.shape[1] != 32 else x * 3


def one_size(x):
    return x * float(x.shape[1])


def odd(x):
    return x * 2 if x.shape[1] % 2 else x * 3


def nearly_halves(x):
    # One operator until torch takes it apart, by whether the example is odd.
    return x.tensor_split(2, 1)[0]


@pytest.mark.parametrize(
    ("function", "condition", "size"),
    [(only_short, "n <= 10", "n = 11"), (all_but_one, "Ne(n, 32)", "n = 32"),
     (one_size, "Eq(n, 9)", "n = 4"), (odd, "n", "n = 4"), (nearly_halves, "n", "n = 4")],
)  # fmt: skip
def test_other_code_at_some_sizes_is_refused_with_its_line(function, condition, size):
    with pytest.raises(SizeError) as raised:
        captured(function)
    details = raised.value.details
    assert details["source"].startswith("test_size_guards.py")
    assert condition in details["found"] and size in details["found"]


@pytest.mark.parametrize("function", [all_but_one, odd, nearly_halves])
@pytest.mark.parametrize("hint", [Dim.DYNAMIC(min=4, max=32), Dim.AUTO(min=3), Dim.DYNAMIC])
def test_hints_are_held_to_the_same(function, hint):
    with pytest.raises(SizeError, match="does something else unless") as raised:
        capture(Calls(function), (torch.randn(1, 9, 6),), dynamic_shapes={"x": {1: hint}})
    assert raised.value.details["source"].startswith("test_size_guards.py")


def quarter(x):
    return x.chunk(4, 1)[0]


@pytest.mark.parametrize("size", [Dim("n", min=4, max=32), Dim.DYNAMIC(min=4, max=32), Dim.AUTO])
def test_conditions_that_change_nothing_do_not_matter(size):
    program = capture(Calls(quarter), (torch.randn(1, 9, 6),), dynamic_shapes={"x": {1: size}})
    for n in (4, 5, 9, 31, 32):
        x = torch.randn(1, n, 6)
        torch.testing.assert_close(runnable(program)(x)[0], quarter(x))


@pytest.mark.parametrize("hint", [Dim.DYNAMIC(min=4, max=32), Dim.AUTO(max=32)])
def test_a_range_that_torch_narrows_is_said(hint):
    with pytest.warns(NarrowedSizeWarning, match=r"axis 1 of x takes sizes from \d to 10,"):
        capture(Calls(only_short), (torch.randn(1, 9, 6),), dynamic_shapes={"x": {1: hint}})


def test_sizes_that_hang_together_are_not_tried_one_by_one():
    class Joined(nn.Module):
        def forward(self, x, y):
            both = x + y
            return both * 2 if x.shape[1] != 30 else both

    x = torch.randn(1, 9, 6)
    sizes = {1: Dim.AUTO(max=20)}
    program = capture(Joined(), (x, x.clone()), dynamic_shapes={"x": sizes, "y": sizes})
    y = torch.randn(1, 5, 6)
    torch.testing.assert_close(runnable(program)(y, y)[0], y * 4)


def root_of_the_size(x):
    return x * math.sqrt(x.shape[1])


def logarithm_of_the_size(x):
    return x + math.log(x.shape[1])


@pytest.mark.parametrize("function", [one_size, root_of_the_size, logarithm_of_the_size])
@pytest.mark.parametrize("dim", [Dim("n", min=4, max=32), Dim.DYNAMIC(min=4, max=32)])
def test_a_size_made_a_number_is_named_with_its_line_and_what_to_write(function, dim):
    x = torch.randn(1, 9, 6)
    with pytest.raises(SizeError, match="that was to be dynamic") as raised:
        capture(Calls(function), (x,), dynamic_shapes={"x": {1: dim}})
    assert "return x" in raised.value.details["source"]
    assert "torch.sym_float(n)" in str(raised.value)


def test_a_size_at_which_the_model_fails_is_named():
    table = torch.zeros(1, 31, 6)

    def fails_at_the_end(x):
        if x.shape[1] == 32:
            raise ValueError("too long")
        return table[:, : x.shape[1]] + x

    with pytest.raises(SizeError, match=r"does not run at n = 32"):
        captured(fails_at_the_end)
    captured(fails_at_the_end, high=31)


def test_two_sizes_and_a_state():
    class Cache(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("keys", torch.zeros(1, 2, 16, 8))

        def forward(self, k, mask):
            n, end = k.shape[2], mask.shape[-1]
            self.keys[:, :, end - n : end] = k
            return (self.keys[:, :, :end].repeat_interleave(2, 1) + mask[..., None]).sum(2)

    n, end = Dim("n", min=1, max=8), Dim("end", min=1, max=16)
    model, inputs = Cache(), (torch.randn(1, 2, 4, 8), torch.zeros(1, 1, 9))
    program = capture(model, inputs, dynamic_shapes={"k": {2: n}, "mask": {2: end}})
    module = runnable(program)
    assert not model.keys.any()
    for size, last in ((5, 5), (2, 7), (8, 16)):
        k, mask = torch.randn(1, 2, size, 8), torch.randn(1, 1, last)
        torch.testing.assert_close(module(k, mask)[0], model(k, mask))


def test_ranges_too_large_to_go_through_are_refused_by_torchs_words():
    with pytest.raises(SizeError, match="cannot vary"):
        captured(half, high=100_000)


def test_derived_sizes():
    n = Dim("n", min=2, max=16)
    x = torch.randn(1, 18, 6)
    program = capture(Calls(halves), (x,), dynamic_shapes={"x": {1: 2 * n}})
    for size in (4, 6, 32):
        x = torch.randn(1, size, 6)
        torch.testing.assert_close(runnable(program)(x)[0], halves(x))


class TwoSizes(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, x, y):
        n, m = x.shape[1], y.shape[1]
        if self.form == "branch":
            return x.sum() + y if n <= m else x.sum() - y
        if self.form == "length":
            return x.sum() + y[:, :n] if n < 2 * m else x.sum() * y
        return y[:, m - n : m] + x  # the model itself wants n <= m


@pytest.mark.parametrize("form", ["branch", "length"])
@pytest.mark.parametrize(
    "sizes", [(Dim.DYNAMIC(min=4, max=9),) * 2, (Dim("n", min=4, max=9), Dim("m", min=4, max=9))]
)
def test_a_branch_on_two_sizes_is_refused_with_its_line(form, sizes):
    shapes = {"x": {1: sizes[0]}, "y": {1: sizes[1]}}
    inputs = (torch.randn(1, 5), torch.randn(1, 8))
    with pytest.raises(SizeError, match="cannot vary") as caught:
        capture(TwoSizes(form), inputs, dynamic_shapes=shapes)
    assert "if n" in str(caught.value)


def test_what_the_model_itself_wants_of_two_sizes_is_the_callers():
    n, m = Dim("n", min=1, max=9), Dim("m", min=1, max=9)
    inputs = (torch.randn(1, 3), torch.randn(1, 8))
    shapes = {"x": {1: n}, "y": {1: m}}
    assert capture(TwoSizes("tail"), inputs, dynamic_shapes=shapes).range_constraints
