"""Cholesky factors and triangular systems, row by row."""

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

from lowering.conversion.converter import convert
from lowering.conversion.torch_ops.triangular import MOST_ROWS
from lowering.errors import LoweringError
from lowering.reference import predict


def assert_same(model, **inputs):
    mlmodel = convert(
        model,
        tuple(inputs.values()),
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    found = predict(mlmodel, {name: value.numpy() for name, value in inputs.items()})
    for got, want in zip(found.values(), model(*inputs.values()), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(shape[-1]))


@pytest.mark.parametrize("size", [1, 2, 7])
def test_factors(size):
    class Factors(nn.Module):
        def forward(self, x):
            square = x @ x.mT + torch.eye(size)
            # Only one triangle is read.
            beside = square + torch.ones(size, size).triu(1)
            upper = torch.linalg.cholesky(square, upper=True)
            return torch.linalg.cholesky(beside), upper, torch.linalg.cholesky(square[0])

    assert_same(Factors(), x=drawn(2, size, size))


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("unit", [False, True])
def test_systems(upper, unit):
    class Systems(nn.Module):
        def forward(self, a, b):
            solve = torch.linalg.solve_triangular
            options = {"upper": upper, "unitriangular": unit}
            right = solve(a, b[0].mT, left=False, **options)
            return solve(a, b, **options), solve(a[0], b, **options), right

    triangle = drawn(3, 5, 5) / 4 + 2 * torch.eye(5)
    assert_same(Systems(), a=triangle.triu() if upper else triangle.tril(), b=drawn(3, 5, 2))


def test_large_ones_are_refused():
    class Factor(nn.Module):
        def forward(self, x):
            return torch.linalg.cholesky(x)

    with pytest.raises(LoweringError, match="small ones only"):
        convert(Factor(), (torch.eye(MOST_ROWS + 1),), skip_model_load=True)
