"""Operators that a constant makes trivial are dropped."""

import pytest
import torch

from passes.simplify_algebra import SimplifyAlgebra
from tests.passes.util import Function, assert_same, run_pass, seeded

aten = torch.ops.aten
X = seeded(2, 3, 4)
TRUE, FALSE = torch.ones(2, 3, 4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)

# name: (function, what may be left)
CASES = {
    "plus_0": (lambda m, x: x + 0, set()),
    "zeros_plus": (lambda m, x: torch.zeros(4) + x, {aten.full.default}),
    "minus_0": (lambda m, x: x - m.zeros, set()),
    "times_1": (lambda m, x: 1.0 * x, set()),
    "times_ones": (lambda m, x: x * m.ones, set()),
    "times_ones_broadcast": (lambda m, x: x[:, :1] * m.ones, {aten.expand.default}),
    "over_1": (lambda m, x: x / 1, set()),
    "power_1": (lambda m, x: x**1, set()),
    "and_true": (lambda m, x: (x > 0) & m.true, set()),
    "true_and_broadcast": (lambda m, x: m.true & (x[:1] > 0), {aten.expand.default}),
    "or_false": (lambda m, x: m.false | (x > 0), set()),
    "logical_and": (lambda m, x: torch.logical_and(x > 0, m.true), set()),
    "logical_or": (lambda m, x: torch.logical_or(x > 0, m.false), set()),
    "where_true": (lambda m, x: torch.where(m.true, x, -x), set()),
    "where_false": (lambda m, x: torch.where(m.false, -x, x), set()),
}


def build(function):
    return Function(function, zeros=torch.zeros(4), ones=torch.ones(3, 4), true=TRUE, false=FALSE)


@pytest.mark.parametrize("name", CASES)
def test_drops(name):
    function, allowed = CASES[name]

    def end(m, x):
        result = function(m, x + 1)
        return result.float() * 2

    _, after, (report,) = run_pass(build(end), X, SimplifyAlgebra())
    ours = {n.target for n in after.graph.nodes if n.op == "call_function"}
    rest = {aten.add.Tensor, aten.mul.Tensor, aten.gt.Scalar, aten._to_copy.default}
    assert report.rewrites == 1
    assert ours <= rest | allowed | {aten.slice.Tensor}
    assert sum(n.target in rest for n in after.graph.nodes) <= 4
    assert_same(build(end), after, X, rtol=0, atol=0)
    with pytest.raises(AssertionError):
        assert_same(build(lambda m, x: end(m, -x)), after, X)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x + 1e-6,
        lambda m, x: 0 - x,
        lambda m, x: 1 / x,
        lambda m, x: x * m.zeros,
        lambda m, x: (x > 0) & m.false,
        lambda m, x: (x > 0) | m.true,
        lambda m, x: torch.where(m.mixed, x, x + 1),
        lambda m, x: x.long() & 1,
        lambda m, x: x.long() + 0.0,  # changes the dtype
        lambda m, x: x.long() / 1,
        lambda m, x: torch.add(x, x, alpha=0),
    ],
)
def test_others_stay(function):
    model = build(function)
    model.register_buffer("mixed", torch.tensor([True, False, True, False]))
    _, after, _ = run_pass(model, X, SimplifyAlgebra())
    assert_same(model, after, X, rtol=0, atol=0)


def test_dynamic_size():
    dims = ({1: torch.export.Dim("tokens", min=2, max=64)},)
    model = Function(lambda m, x: ((x > 0) & m.true).float() * 1 + 0, true=TRUE[0, 0])
    _, after, (report,) = run_pass(model, (X,), SimplifyAlgebra(), dynamic_shapes=dims)
    assert report.rewrites == 3
    assert_same(model, after, seeded(2, 7, 4), rtol=0, atol=0)
