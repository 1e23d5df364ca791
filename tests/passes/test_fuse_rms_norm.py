"""RMSNorm in every spelling becomes one operator."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from frontend.ops import rms_norm
from passes.fold_constants import FoldConstants
from passes.fuse_rms_norm import FuseRmsNorm
from tests.passes.util import (
    Function,
    assert_differs_when_perturbed,
    assert_same,
    count,
    reasons,
    run_pass,
    seeded,
)

aten = torch.ops.aten
X = seeded(2, 5, 8)
W = seeded(8, seed=1)


def llama(m, x):
    h = x.to(torch.float32)
    variance = h.pow(2).mean(-1, keepdim=True)
    h = h * torch.rsqrt(variance + 1e-6)
    return m.w * h.to(x.dtype)


def gemma(m, x):
    out = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)
    return (out * (1.0 + m.w.float())).type_as(x)


def mean_square(x, axis=-1):
    return x.pow(2).mean(axis, keepdim=True)


# name: (function, x, axes, has a weight)
CASES = {
    "llama": (llama, X, [2], True),
    "gemma": (gemma, X, [2], True),
    "t5": (lambda m, x: m.w * (x * torch.rsqrt(mean_square(x) + 1e-6)), X, [2], True),
    "no_weight": (lambda m, x: x * torch.rsqrt(mean_square(x) + 1e-6), X, [2], False),
    "weight_behind": (lambda m, x: torch.rsqrt(1e-6 + mean_square(x)) * x * m.w, X, [2], True),
    "times_itself": (
        lambda m, x: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * m.w,
        X,
        [2],
        True,
    ),
    "square": (lambda m, x: x / (x.square().mean(-1, True) + 1e-6).sqrt() * m.w, X, [2], True),
    "one_over_root": (lambda m, x: x * (1 / torch.sqrt(mean_square(x) + 1e-6)), X, [2], False),
    "reciprocal": (lambda m, x: x * torch.sqrt(mean_square(x) + 1e-6).reciprocal(), X, [2], False),
    "power": (lambda m, x: x * (mean_square(x) + 1e-6) ** -0.5, X, [2], False),
    "sum": (lambda m, x: x * torch.rsqrt((x**2).sum(-1, True) / 8 + 1e-6) * m.w, X, [2], True),
    "channels_first": (
        lambda m, x: x * torch.rsqrt(mean_square(x, 1) + 1e-6) * m.w[:, None, None],
        seeded(2, 8, 3, 5),
        [1],
        True,
    ),
    "module": (lambda m, x: m.norm(x), X, [2], True),
    "module_without_eps": (lambda m, x: F.rms_norm(x, (5, 8)), X, [1, 2], False),
}


def build(function):
    model = Function(function, w=W)
    model.norm = nn.RMSNorm(8, eps=1e-6)
    nn.init.normal_(model.norm.weight, generator=torch.Generator().manual_seed(2))
    return model


@pytest.mark.parametrize("name", CASES)
def test_fires(name):
    function, x, axes, weighted = CASES[name]
    model = build(function)
    before, after, (report,) = run_pass(model, x, FuseRmsNorm())
    assert count(before, rms_norm) == 0
    (node,) = [n for n in after.graph.nodes if n.target is rms_norm]
    assert list(node.args[1]) == axes and (node.args[2] is not None) == weighted
    left = {n.target for n in after.graph.nodes if n.op == "call_function"}
    assert not left & {aten.mean.dim, aten.rsqrt.default, aten.sqrt.default, aten.rms_norm.default}
    assert report.rewrites == 1 and not report.declined
    assert_same(model, after, x)
    if weighted:
        assert_differs_when_perturbed(after, model, x)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_eps_is_the_models_own(scale):
    """Small inputs tell eps apart; without an eps torch takes float32's."""
    for name in ("llama", "module_without_eps"):
        model = build(CASES[name][0])
        _, after, _ = run_pass(model, X, FuseRmsNorm())
        assert_same(model, after, X * scale)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models(dtype):
    """Their casts around the norm are gone after capture."""
    model = build(llama).to(dtype)
    _, after, _ = run_pass(model, X.to(dtype), FuseRmsNorm(), FoldConstants())
    assert count(after, rms_norm) == 1 and count(after, aten.mul.Tensor) == 0


def test_computed_weight_stays_outside():
    model = build(lambda m, x: F.rms_norm(x, (8,), x.mean((0, 1))))
    _, after, _ = run_pass(model, X, FuseRmsNorm())
    (node,) = [n for n in after.graph.nodes if n.target is rms_norm]
    assert node.args[2] is None and count(after, aten.mul.Tensor) == 1
    assert_same(model, after, X)


def test_weight_of_other_axes_and_bias_stay_outside():
    model = build(lambda m, x: x * torch.rsqrt(mean_square(x) + 1e-6) * m.w[:5, None] + m.w)
    _, after, _ = run_pass(model, X, FuseRmsNorm())
    (node,) = [n for n in after.graph.nodes if n.target is rms_norm]
    assert node.args[2] is None
    assert (count(after, aten.mul.Tensor), count(after, aten.add.Tensor)) == (1, 1)
    assert_same(model, after, X)


def test_refuses_when_a_step_is_used_elsewhere():
    def function(m, x):
        inverse = torch.rsqrt(mean_square(x) + 1e-6)
        return x * inverse * m.w, inverse

    model = build(function)
    _, after, (report,) = run_pass(model, X, FuseRmsNorm())
    assert "used elsewhere" in reasons(report)[0] and report.rewrites == 0
    assert_same(model, after, X)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x * torch.rsqrt(mean_square(x + 1) + 1e-6),
        lambda m, x: x * torch.rsqrt(x.pow(3).mean(-1, keepdim=True) + 9),
        lambda m, x: x * torch.sqrt(mean_square(x) + 1e-6),
        lambda m, x: x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6),
        lambda m, x: x * torch.rsqrt(mean_square(x) + x[..., :1] ** 2),
        lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1)[:1, :1, None] + 1e-6),
        lambda m, x: (x - x.mean(-1, True)) * torch.rsqrt(mean_square(x - x.mean(-1, True)) + 1e-6),
    ],
)
def test_others_are_no_rms_norms(function):
    model = build(function)
    _, after, (report,) = run_pass(model, X, FuseRmsNorm())
    assert report.rewrites == 0 and not report.declined
    assert_same(model, after, X)


def test_dynamic_tokens():
    model = build(llama)
    dims = ({1: torch.export.Dim("tokens", min=2, max=64)},)
    _, after, _ = run_pass(model, (X,), FuseRmsNorm(), dynamic_shapes=dims)
    assert count(after, rms_norm) == 1
    assert_same(model, after, seeded(2, 11, 8))
