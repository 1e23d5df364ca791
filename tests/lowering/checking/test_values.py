"""What a value says about int32 and float16."""

import pytest
import torch

from lowering.checking.rules import Severity
from lowering.checking.values import is_beyond, problem_of

aten = torch.ops.aten
BIG, SMALL = torch.tensor([1e6, 1.0]), torch.ones(2)
WIDE = torch.tensor([2**40, 1])


@pytest.mark.parametrize(
    ("tensor", "beyond"),
    [
        (SMALL, False),
        (BIG, True),
        (torch.tensor([float("-inf")]), True),
        (torch.tensor([float("nan")]), False),
        (torch.tensor([65504.0]), False),
        (WIDE, True),
        (WIDE.double(), True),
        (torch.tensor([2**31 - 1]), False),
        (torch.empty(0), False),
        (torch.tensor([True]), False),
    ],
)
def test_beyond(tensor, beyond):
    assert is_beyond(tensor) is beyond


@pytest.mark.parametrize(
    ("target", "args", "result", "before", "rule"),
    [
        (aten.mul.Tensor, (SMALL, 1e6), BIG, False, "fp16-overflow"),
        (aten.mul.Tensor, (SMALL, -1e9), BIG, False, "fp16-large-constant"),
        (aten.masked_fill.Scalar, (SMALL, None, 1e9), BIG, False, "fp16-large-constant"),
        (aten.mul.Tensor, (BIG, 2.0), BIG, True, None),  # no news
        (aten.log.default, (SMALL,), torch.tensor([float("-inf")]), False, None),
        (aten.mul.Tensor, (SMALL, 2.0), SMALL, False, None),
    ],
)
def test_floats(target, args, result, before, rule):
    problem = problem_of(target, args, result, before)
    assert (problem and problem[0]) == rule


@pytest.mark.parametrize(
    ("target", "result", "before", "severity"),
    [
        (aten.mul.Tensor, WIDE, False, Severity.WRONG),
        (aten.remainder.Scalar, torch.tensor([3]), True, Severity.WRONG),
        (aten.full.default, WIDE, False, Severity.NOTE),
        (aten.where.self, WIDE, True, None),  # it only moves what was reported before
        (aten.lt.Scalar, torch.tensor([True]), True, None),
    ],
)
def test_integers(target, result, before, severity):
    problem = problem_of(target, (), result, before)
    assert (problem and problem[2]) == severity
