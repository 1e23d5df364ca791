"""Sums of squares as squares of norms."""

from __future__ import annotations

import pytest
import torch

import passes
from lowering import convert
from lowering.reference import predict
from passes.rms_norm_form import RmsNormForm
from passes.squares_to_norm import SquaresToNorm
from tests.passes.util import (
    Function,
    assert_differs_when_perturbed,
    assert_same,
    count,
    run_pass,
    seeded,
)

aten = torch.ops.aten
X = seeded(2, 5, 8)
NORM = aten.linalg_vector_norm.default


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: (x * x * m.w).pow(2).mean(-1, keepdim=True) + x,
        lambda m, x: (x * m.w).square().sum((0, 2)),
        lambda m, x: ((x * m.w) ** 2).mean(),
        lambda m, x: x / (1 + (x * m.w).pow(2).sum(1, keepdim=True)),
    ],
    ids=["mean", "sum", "whole", "denominator"],
)
def test_a_sum_of_squares_is_the_square_of_a_norm(function):
    model = Function(function, w=seeded(8, seed=1))
    before, after, (report,) = run_pass(model, X, SquaresToNorm())
    assert count(before, NORM) == 0 and count(after, NORM) == 1
    assert count(after, aten.mean.dim, aten.mean.default, aten.sum.dim_IntList) == 0
    assert report.rewrites == 1 and not report.declined
    assert_same(model, after, X)
    assert_differs_when_perturbed(after, model, X)


@pytest.mark.parametrize(
    ("function", "declined"),
    [
        (lambda m, x: (s := x * x).mean(-1, keepdim=True) + s, 1),
        (lambda m, x: x.pow(3).mean(-1), 0),
        (lambda m, x: (x * (x + 1)).sum(-1), 0),
        (lambda m, x: x.var(-1), 0),
        (lambda m, x: (x.to(torch.int32) ** 2).sum(-1), 0),
    ],
    ids=["read twice", "cubes", "products", "variance", "integers"],
)
def test_others_stay(function, declined):
    model = Function(function)
    before, after, (report,) = run_pass(model, X, SquaresToNorm())
    assert report.rewrites == 0 and count(after, NORM) == count(before, NORM) == 0
    assert len(report.declined) == declined
    if declined:
        assert "something else" in report.declined[0].reason


@pytest.mark.parametrize("scale", [0.05, 1.0, 150.0])
def test_float16_holds_squares_whose_mean_it_holds(scale):
    """Numbers of about 150 have a mean square of 22,500, and squares above the largest float16."""
    model = Function(lambda m, x: x / x.pow(2).mean((1, 2), keepdim=True) * 1e3)
    x = X * scale
    optimized = passes.optimize_for_ane(model, (x,))
    assert count(optimized.program, NORM) == 1
    (found,) = predict(convert(optimized, skip_model_load=True), {"x": x}).values()
    found, expected = torch.as_tensor(found).float(), model(x)
    torch.testing.assert_close(found, expected, rtol=6e-3, atol=float(expected.abs().max()) * 1e-3)


def test_a_norm_of_the_default_pipeline_writes_no_squares():
    model = torch.nn.RMSNorm(8)
    optimized = passes.optimize_for_ane(model, (X,))
    assert count(optimized.program, NORM) == 1
    assert count(optimized.program, aten.mean.dim) == 0
    torch.testing.assert_close(optimized(X), model(X), rtol=1e-5, atol=1e-6)
    textbook = passes.optimize_for_ane(model, (X,), pipeline=(RmsNormForm("native"),))
    assert count(textbook.program, NORM) == 0
