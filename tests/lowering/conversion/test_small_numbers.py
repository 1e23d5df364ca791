"""Operators at the ends of float16's range: in a float16 package against the model in float32."""

import coremltools as ct
import pytest
import torch

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
