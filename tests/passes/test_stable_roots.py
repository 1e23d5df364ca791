"""Roots of sums of squares: one norm, the same numbers, and right in float16."""

import pytest
import torch

from lowering import convert, predict
from passes.fuse_rms_norm import FuseRmsNorm
from passes.stable_roots import StableRoots
from tests.passes.util import (
    Function,
    assert_differs_when_perturbed,
    assert_same,
    count,
    outputs,
    run_pass,
    seeded,
)

aten = torch.ops.aten
X = seeded(4, 24)
SIZES = (1e-3, 1.0, 1e3)

FREE = {
    "sum": lambda m, x: (x * x).sum(-1, keepdim=True).sqrt(),
    "mean": lambda m, x: x.pow(2).mean((0, 1)) ** 0.5,
    "scaled": lambda m, x: (x.square().sum(0) / 7).sqrt(),
    "size": lambda m, x: (x * x).sqrt(),
    "deviation": lambda m, x: x.var(-1).sqrt(),
    "deviation of all": lambda m, x: x.var(unbiased=False).sqrt(),
    "error": lambda m, x: torch.nn.functional.mse_loss(x, x.flip(0) * 0.9).sqrt(),
    "inverse": lambda m, x: x * (x * x).sum(-1, keepdim=True).rsqrt(),
    "inverse, divided": lambda m, x: x / (x.pow(2).mean(-1, keepdim=True).sqrt() + 1e-6),
}
THOROUGH = {
    "eps": lambda m, x: x * ((x * x).sum(-1, keepdim=True) + 1e-9).rsqrt(),
    "larger eps": lambda m, x: (x.pow(2).mean(-1) + 0.01).sqrt(),
    "eps that rounds to zero": lambda m, x: x * torch.rsqrt(x.square().sum(0, True) + 1e-12),
    "standardised": lambda m, x: (x - x.mean()) / (x.var() + 1e-6).sqrt(),
    "magnitude": lambda m, x: (x**2 + x.flip(-1) ** 2).sqrt(),
    "three squares": lambda m, x: (x**2 + x.flip(-1) ** 2 + x.flip(0).square()).sqrt(),
    "smooth size": lambda m, x: (x * x + 1).sqrt(),
    "magnitude, eps": lambda m, x: (x**2 + x.flip(-1) ** 2 + 1e-9).sqrt(),
}


def relative_error(package, model, x):
    (found,) = predict(package, {"x": x.numpy()}).values()
    (want,) = outputs(model, x)
    return float((torch.from_numpy(found).reshape(want.shape) - want).norm() / want.norm())


@pytest.mark.parametrize("name", [*FREE, *THOROUGH])
def test_same_numbers_and_right_in_float16(name):
    model = Function({**FREE, **THOROUGH}[name])
    step = StableRoots(thorough=name in THOROUGH)
    _, after, (report,) = run_pass(model, X, step)
    assert report.rewrites == 1 and not report.declined
    package = convert(after, skip_model_load=True)
    for size in SIZES:
        x = (X * size).half().float()
        assert_same(model, after, x)
        assert relative_error(package, model, x) < 2e-3, size


@pytest.mark.parametrize("name", FREE)
def test_it_takes_no_more_operators(name):
    model = Function(FREE[name])
    before, after, _ = run_pass(model, X, StableRoots())
    programs = [convert(p, skip_model_load=True)._mil_program for p in (before, after)]
    counted = [
        sum(op.op_type != "const" for op in program.functions["main"].operations)
        for program in programs
    ]
    assert counted[1] <= counted[0]


@pytest.mark.parametrize("name", THOROUGH)
def test_more_operators_are_left_to_who_asks(name):
    _, after, (report,) = run_pass(Function(THOROUGH[name]), X, StableRoots())
    assert report.rewrites == 0 and count(after, aten.hypot.default) == 0


@pytest.mark.parametrize("name", ["sum", "deviation", "eps", "magnitude"])
def test_without_the_pass_the_package_is_wrong(name):
    model = Function({**FREE, **THOROUGH}[name])
    before, _, _ = run_pass(model, X)
    package = convert(before, skip_model_load=True)
    assert not relative_error(package, model, X * 1e3) < 0.5


def test_zeros_stay_zeros():
    model = Function(THOROUGH["eps that rounds to zero"])
    _, after, _ = run_pass(model, X, StableRoots(thorough=True))
    (found,) = predict(convert(after), {"x": 0 * X.numpy()}).values()
    assert (found == 0).all()


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: (x * x.flip(0)).sum(-1).abs().sqrt(),
        lambda m, x: (x**4).mean(-1).sqrt(),
        lambda m, x: (x * x - x.flip(0) ** 2).abs().sqrt(),
        lambda m, x: (-(x * x).sum(-1)).rsqrt(),
        lambda m, x: x.pow(2).mean(-1) ** 0.25,
    ],
)
def test_what_is_no_root_of_squares(function):
    _, _, (report,) = run_pass(Function(function), X, StableRoots(thorough=True))
    assert report.rewrites == 0


def test_dynamic_sizes():
    model = Function(lambda m, x: (x * x).sum(1).sqrt() + x.var(0).sqrt().sum())
    dims = ({1: torch.export.Dim("tokens", min=2, max=64)},)
    _, after, (report,) = run_pass(model, (X,), StableRoots(), dynamic_shapes=dims)
    assert report.rewrites == 2
    assert_same(model, after, X[:, :9])


def test_norms_of_models_are_recognised_first():
    model = Function(lambda m, x: x * (x.pow(2).mean(-1, True) + 1e-6).rsqrt() * m.w, w=seeded(24))
    _, after, reports = run_pass(model, X, FuseRmsNorm(), StableRoots(thorough=True))
    assert [report.rewrites for report in reports] == [1, 0]
    assert_differs_when_perturbed(after, model, X)
