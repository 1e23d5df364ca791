"""What cannot become torch.where is refused with the user's line and the reason."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from frontend.branches import BranchError, UncheckedPathWarning
from frontend.errors import CaptureError
from tests.frontend.branch_harness import assert_same, export, function_module, random_cases

CASES = random_cases((2, 3))


def refusal(function, **options):
    with pytest.raises(BranchError) as caught:
        export(function_module(function), *CASES[0], **options)
    assert isinstance(caught.value, CaptureError)
    return caught.value


NUMBERS = {
    "item() as an index, a size or a range()": lambda self, x: x[: x.long().sum().item()],
    "int()": lambda self, x: x * int(x.sum()),
    "float()": lambda self, x: x * float(x.sum()),
    "complex()": lambda self, x: x * complex(x.sum()),
    "range()": lambda self, x: sum(x + i for i in range(x.long().sum())),
    "using it as an index": lambda self, x: [x, x + 1][x.long().sum()],
    "tolist()": lambda self, x: x * x.tolist()[0][0],
    "numpy()": lambda self, x: x * float(x.numpy().sum()),
    "numpy": lambda self, x: x * np.asarray(x).sum(),
}


@pytest.mark.parametrize("reason", NUMBERS)
def test_numbers_out_of_data(reason):
    error = refusal(NUMBERS[reason])
    assert reason in str(error)
    assert "test_branches_refusals.py:" in error.details["source"]
    assert "lambda self, x" in error.details["source"]


def test_a_refusal_is_not_swallowed_by_the_model():
    def forward(self, x):
        try:
            n = int(x.sum())
        except Exception:
            n = 0
        return x * n

    assert "int()" in refusal(forward).message


@pytest.mark.parametrize("invert", [False, True])
def test_an_unbounded_loop(invert):
    def shrink(self, x):
        while x.sum() > 0:
            x = x - 1
        return x

    def grow(self, x):
        while not x.sum() > 0:
            x = x + 1
        return x

    error = refusal(grow if invert else shrink)
    assert "x.sum() > 0:" in error.details["source"]
    if invert:
        assert "more than 32 paths" in error.message
        assert "(33×)" in error.details["found"]
    else:
        assert "loop depends on tensor values" in error.message
    assert "fixed number of steps" in error.details["next step"]


def test_too_many_paths():
    def forward(self, x):
        if x[0, 0] > 0:
            x = x + 1
        if x[0, 1] > 0:
            x = x * 2
        return x

    error = refusal(forward, max_paths=3)
    assert "more than 3 paths" in error.message
    assert "if x[0, 0] > 0: (1×)" in error.details["found"]
    assert "if x[0, 1] > 0: (1×)" in error.details["found"]
    assert "torch.where" in error.details["next step"]
    assert_same(function_module(forward), CASES, max_paths=4)


def test_different_shapes():
    error = refusal(lambda self, x: x if x.sum() > 0 else x[:1])
    assert "output 0 different shapes" in error.message
    assert error.details["found"] == "float32 (2, 3) when true, float32 (1, 3) when false"


def test_different_dtypes():
    error = refusal(lambda self, x: x if x.sum() > 0 else x.long())
    assert "output 0 different dtypes" in error.message
    assert error.details["found"] == "float32 (2, 3) when true, int64 (2, 3) when false"


def test_different_numbers():
    error = refusal(lambda self, x: (x, 1) if x.sum() > 0 else (x, 2))
    assert "output 1" in error.message
    assert error.details["found"] == "1 when true, 2 when false"


def test_different_structures():
    error = refusal(lambda self, x: x if x.sum() > 0 else (x, x))
    assert "return different things" in error.message


def test_dynamic_sizes_that_may_differ():
    def forward(self, x, y):
        return x if x.sum() > 0 else y

    a, b = torch.export.Dim("a", min=2), torch.export.Dim("b", min=2)
    with pytest.raises(BranchError, match="output 0 different shapes"):
        export(
            function_module(forward),
            *(torch.ones(4), torch.ones(5)),
            dynamic_shapes={"args": ({0: a}, {0: b})},
        )


def test_every_path_raises():
    def forward(self, x):
        if x.sum() > 0:
            raise ValueError("positive")
        raise TypeError("negative")

    error = refusal(forward)
    assert "every path" in error.message
    assert "ValueError: positive" in error.details["found"]
    assert "TypeError: negative" in error.details["found"]


def test_an_error_without_a_branch_is_the_users_own():
    def forward(self, x):
        raise KeyError("as in eager")

    with pytest.raises(KeyError, match="as in eager"):
        export(function_module(forward), *CASES[0])


def test_a_side_that_cannot_run_is_no_unreachable_path():
    def forward(self, x):
        if x.sum() > 0:
            return x @ x
        return x

    error = refusal(forward)
    assert "one side of a branch cannot be run" in error.message
    assert "return x @ x" in error.details["source"]
    assert "if x.sum() > 0:" in error.details["found"]


def test_sizes_that_depend_on_data_are_for_capture_to_explain():
    def forward(self, x):
        rows = x[x[:, 0] > 0]
        return rows.sum() if (x > 0).any() and rows.shape[0] > 1 else x.sum()

    with pytest.raises(GuardOnDataDependentSymNode):
        export(function_module(forward), *CASES[0])


def test_truth_of_several_elements():
    with pytest.raises(RuntimeError, match="more than one value is ambiguous"):
        export(function_module(lambda self, x: x if x > 0 else -x), *CASES[0])


def test_random_numbers():
    def forward(self, x):
        u = torch.rand(())
        return x * u if u > 0.5 else x - u

    error = refusal(forward)
    assert "random numbers" in error.message and "rand" in error.details["op"]
    assert "torch.rand" in error.details["source"]


def test_pythons_random_numbers():
    generator = random.Random(0)

    def forward(self, x):
        for _ in range(generator.randrange(1, 9)):
            x = x + 1
        if x[0, 0] > generator.random():
            if x[0, 1] > 0:
                x = x + 1
            elif generator.random() < 2:
                x = x * 2 if x[0, 2] > 0 else x
        if generator.random() < 0.5 and x.sum() > 0:
            x = x + 1
        return x * 2 if x.mean() > 0 else x

    with pytest.raises(BranchError, match=r"another way when it runs again|more than 32"):
        export(function_module(forward), *CASES[0])


def test_the_module_is_named():
    class Inner(nn.Module):
        def forward(self, x):
            return x * int(x.sum())

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Identity(), Inner()])

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    with pytest.raises(BranchError) as caught:
        export(Outer(), *CASES[0])
    assert caught.value.details["module"] == "blocks.1"
    assert "int(x.sum())" in caught.value.details["source"]


def test_a_raise_in_a_helper_counts_as_the_users():
    def check(x):
        if bool(x.isnan().any()):
            raise ArithmeticError("NaN")

    def forward(self, x):
        check(x)
        return x * 2

    with pytest.warns(UncheckedPathWarning, match="ArithmeticError: NaN"):
        assert_same(function_module(forward), CASES)
