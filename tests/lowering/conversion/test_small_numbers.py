"""Operators at the ends of float16's range: in a float16 package against the model in float32."""

import coremltools as ct
import pytest
import torch
from torch.nn import functional as F

from lowering import convert, predict
from tests.passes.util import Function, outputs, seeded

X = seeded(4, 24)


def package_of(model, x, **options):
    return convert(model, (x,), skip_model_load=True, **options)


def relative_error(package, model, x):
    (found,) = predict(package, {"x": x.numpy()}).values()
    (want,) = outputs(model, x)
    found = torch.from_numpy(found).reshape(want.shape).double()
    return float((found - want).norm() / want.double().norm())


def operators(package):
    return [op.op_type for op in package._mil_program.functions["main"].operations]


@pytest.mark.parametrize(
    ("name", "epsilon"), [("log", 1e-7), ("log10", 1e-10), ("rsqrt", 1e-5), ("rsqrt", 1e-9)]
)
def test_a_tiny_number_that_is_added_is_the_operators_epsilon(name, epsilon):
    model = Function(lambda m, x: getattr(torch, name)(epsilon + x.abs()))
    x = (X * (X > 0) * 0.05).half().float()  # zeros among them
    package = package_of(model, x)
    assert "add" not in operators(package)
    assert relative_error(package, model, x) < 2e-3


def test_what_an_inverse_root_would_make_infinite_is_added():
    model = Function(lambda m, x: x * torch.rsqrt(x.abs() + 1e-12))
    (found,) = predict(package_of(model, X), {"x": 0 * X.numpy()}).values()
    assert (found == 0).all()


def test_a_larger_number_is_added():
    model = Function(lambda m, x: (x.abs() + 0.01).log())
    package = package_of(model, X, compute_precision=ct.precision.FLOAT32)
    assert "add" in operators(package) and relative_error(package, model, X) < 1e-6


P = torch.rand(4, 24, generator=torch.Generator().manual_seed(0))
# A function and the magnitudes of normal numbers at which it must hold.
LARGE_AND_SMALL = {
    "asinh": (torch.asinh, (1e-3, 0.1, 1.0, 1e3, 1.5e4)),
    "acosh": (lambda x: torch.acosh(1 + x.abs()), (1.0, 1e3, 1.5e4)),
    "hypot": (lambda x: torch.hypot(x, x.flip(0)), (1e-3, 1.0, 1e3)),
    "log1p": (torch.log1p, (1e-3, 0.1)),
    "expm1": (torch.expm1, (1e-3, 0.1)),
    "logcumsumexp": (lambda x: torch.logcumsumexp(x, -1), (1.0, 30.0)),
    "std": (lambda x: x.std(-1), (1e-3, 1.0, 1e3)),
    "standardised": (lambda x: (x - x.mean()) / x.std(unbiased=False), (1e-3, 1e3)),
    "norm of order 3": (lambda x: torch.linalg.vector_norm(x, 3, -1), (1e-3, 1.0, 1e3)),
    "distances": (lambda x: torch.cdist(x, x.flip(0) / 2), (1e-3, 1.0, 1e3)),
    "group norm": (lambda x: F.group_norm(x.view(1, 4, 4, 6), 2, eps=1e-5), (1e-2, 1.0, 1e3)),
}


@pytest.mark.parametrize("name", LARGE_AND_SMALL)
def test_large_and_small_numbers(name):
    function, sizes = LARGE_AND_SMALL[name]
    model = Function(lambda m, x: function(x))
    package = package_of(model, X)
    exact = package_of(model, X, compute_precision=ct.precision.FLOAT32)
    for size in sizes:
        x = (X * size).half().float()
        assert relative_error(package, model, x) < 2e-3, size
        assert relative_error(exact, model, x) < 1e-6, size


def test_near_one():
    """The difference from one is small and exact, its square root is all of the result."""
    model, x = Function(lambda m, x: torch.acosh(x)), 1 + (P * 0.01).half().float()
    x = x.half().float()
    assert relative_error(package_of(model, x), model, x) < 2e-3


def test_a_group_norm_is_one_operator():
    model = Function(lambda m, x: F.group_norm(x, 2))
    package = package_of(model, X.view(1, 4, 4, 6))
    assert operators(package).count("layer_norm") == 1 and "reduce_mean" not in operators(package)
