"""Layer norms in every spelling become one operator."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from frontend.ops import layer_norm
from passes.fuse_layer_norm import FuseLayerNorm
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
IMAGE = seeded(2, 8, 3, 5)
W, B = seeded(8, seed=1), seeded(8, seed=2)


def centred(x, axis):
    return x - x.mean(axis, keepdim=True)


def channels_first(m, x):
    """ConvNeXt's LayerNorm over axis 1."""
    u = x.mean(1, keepdim=True)
    s = (x - u).pow(2).mean(1, keepdim=True)
    x = (x - u) / torch.sqrt(s + 1e-6)
    return m.w[:, None, None] * x + m.b[:, None, None]


def bias_before_weight(m, x):
    """Apple's LayerNormANE: (x + b) * w."""
    zero_mean = centred(x, 1)
    denominator = ((zero_mean * zero_mean).mean(1, keepdim=True) + 1e-5).rsqrt()
    return (zero_mean * denominator + m.b.view(1, 8, 1, 1)) * m.w.view(1, 8, 1, 1)


def var_mean(m, x):
    var, mean = torch.var_mean(x, -1, unbiased=False, keepdim=True)
    return (x - mean) * torch.rsqrt(var + 1e-5) * m.w + m.b


def half_written(m, x):
    return centred(x, -1) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5)


WRITTEN = {
    "channels_first": (channels_first, IMAGE, [1]),
    "bias_before_weight": (bias_before_weight, IMAGE, [1]),
    "var_mean": (var_mean, X, [2]),
    "var": (half_written, X, [2]),
    "power_of_minus_half": (
        lambda m, x: (centred(x, -1).square().mean(-1, True) + 1e-5) ** -0.5 * centred(x, -1),
        X,
        [2],
    ),
    "reciprocal": (
        lambda m, x: (
            1 / torch.sqrt(1e-5 + centred(x, 1).pow(2).mean(1, keepdim=True)) * centred(x, 1)
        ),
        X,
        [1],
    ),
    "sum_over_n": (
        lambda m, x: (
            (x - x.sum(-1, keepdim=True) / 8)
            * torch.rsqrt(((x - x.sum(-1, keepdim=True) / 8) ** 2).sum(-1, keepdim=True) / 8 + 1e-5)
        ),
        X,
        [2],
    ),
    "two_axes": (
        lambda m, x: centred(x, (1, 3)) * torch.rsqrt(
            centred(x, (1, 3)).pow(2).mean((1, 3), keepdim=True) + 1e-5
        ),
        IMAGE,
        [1, 3],
    ),
    "eps_in_a_tensor": (
        lambda m, x: centred(x, 1) * (centred(x, 1).pow(2).mean(1, True) + m.eps).rsqrt() * m.five,
        X,
        [1],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_written_out(name):
    function, x, axes = WRITTEN[name]
    model = Function(function, w=W, b=B, five=W[:5, None], eps=torch.tensor(1e-5))
    before, after, (report,) = run_pass(model, x, FuseLayerNorm())
    assert count(before, layer_norm) == 0
    (node,) = [n for n in after.graph.nodes if n.target is layer_norm]
    assert list(node.args[1]) == axes
    assert report.rewrites == 1 and not report.declined
    left = [n.target for n in after.graph.nodes if n.op == "call_function"]
    assert aten.mean.dim not in left and aten.rsqrt.default not in left
    assert_same(model, after, x)


@pytest.mark.parametrize("affine", ["both", "weight", "bias", "none", "zero_weight"])
@pytest.mark.parametrize("shape", [(8,), (5, 8), (2, 5, 8)])
def test_composite(affine, shape):
    w = None if affine in ("bias", "none") else seeded(*shape, seed=1)
    b = None if affine in ("weight", "none") else seeded(*shape, seed=2)
    if affine == "zero_weight":
        w = w * (torch.arange(w.numel()).reshape(shape) % 3 > 0)
    tensors = {name: t for name, t in (("w", w), ("b", b)) if t is not None}

    def function(m, x):
        return F.layer_norm(x, shape, getattr(m, "w", None), getattr(m, "b", None), 1e-6)

    model = Function(function, **tensors)
    x = seeded(2, 5, 8)
    before, after, (report,) = run_pass(model, x, FuseLayerNorm())
    assert (count(before, aten.layer_norm.default), count(after, aten.layer_norm.default)) == (1, 0)
    (node,) = [n for n in after.graph.nodes if n.target is layer_norm]
    assert list(node.args[1]) == list(range(3 - len(shape), 3)) and node.args[4] == 1e-6
    assert [p is not None for p in node.args[2:4]] == [w is not None, b is not None]
    assert report.rewrites == 1
    assert_same(model, after, x)
    if tensors:
        assert_differs_when_perturbed(after, model, x)


def test_default_eps():
    model = Function(lambda m, x: F.layer_norm(x, (8,)))
    _, after, _ = run_pass(model, X, FuseLayerNorm())
    (node,) = [n for n in after.graph.nodes if n.target is layer_norm]
    assert node.args[4] == 1e-5
    assert_same(model, after, X)


@pytest.mark.parametrize("which", ["weight", "bias"])
def test_computed_affine_stays_outside(which):
    """Adaptive norms: MIL's layer_norm wants constants."""

    def function(m, x):
        computed = x.mean((0, 1))
        w, b = (computed, m.b) if which == "weight" else (m.w, computed)
        return F.layer_norm(x, (8,), w, b)

    model = Function(function, w=W, b=B)
    _, after, _ = run_pass(model, X, FuseLayerNorm())
    (node,) = [n for n in after.graph.nodes if n.target is layer_norm]
    assert node.args[3] is None and (node.args[2] is None) == (which == "weight")
    assert_same(model, after, X)


def test_native_layer_norm():
    model = Function(lambda m, x: torch.native_layer_norm(x, (8,), m.w, m.b, 1e-5)[0], w=W, b=B)
    _, after, _ = run_pass(model, X, FuseLayerNorm())
    assert (count(after, layer_norm), count(after, aten.native_layer_norm.default)) == (1, 0)
    assert_same(model, after, X)


def test_a_second_factor_is_not_the_weight():
    model = Function(lambda m, x: half_written(m, x) * m.w * m.b + m.w, w=W, b=B)
    _, after, _ = run_pass(model, X, FuseLayerNorm())
    assert (count(after, layer_norm), count(after, aten.mul.Tensor)) == (1, 1)
    assert_same(model, after, X)


def test_other_broadcasts_are_not_the_affine():
    model = Function(lambda m, x: half_written(m, x) * m.rows + m.b, rows=seeded(5, 1), b=B)
    _, after, _ = run_pass(model, X, FuseLayerNorm())
    (node,) = [n for n in after.graph.nodes if n.target is layer_norm]
    assert node.args[2:4] == (None, None)
    assert_same(model, after, X)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda m, x: torch.native_layer_norm(x, (8,), None, None, 1e-5)[:2], "mean or inverse"),
        (lambda m, x: centred(x, -1) / torch.sqrt(x.var(-1, keepdim=True) + 1e-5), "n - 1"),
        (
            lambda m, x: (
                centred(x, -1) * torch.rsqrt(centred(x, -1).pow(2).mean(1, keepdim=True) + 1e-5)
            ),
            "mean is taken over axes [2] and its variance over [1]",
        ),
        (
            lambda m, x: (
                (y := x.mean(-1, keepdim=True))
                + (x - y) * torch.rsqrt((x - y).pow(2).mean(-1, keepdim=True) + 1e-5)
            ),
            "used elsewhere",
        ),
    ],
)
def test_refusals(function, reason):
    model = Function(function)
    _, after, (report,) = run_pass(model, X, FuseLayerNorm())
    assert any(reason in sentence for sentence in reasons(report)), report.declined
    assert count(after, layer_norm) == 0
    assert_same(model, after, X)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5),  # RMS
        lambda m, x: centred(x, -1) * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5),
        lambda m, x: centred(x, -1) / (x.std(-1, keepdim=True) + 1e-5),
        lambda m, x: centred(x, -1) * torch.rsqrt(centred(x, -1).abs().mean(-1, True) + 1e-5),
        lambda m, x: centred(x, -1) * torch.sqrt(centred(x, -1).pow(2).mean(-1, True) + 1e-5),
        lambda m, x: centred(x, -1) * torch.rsqrt(centred(x, -1).pow(2).sum(-1, True) / 7 + 1e-5),
    ],
)
def test_others_are_no_layer_norms(function):
    model = Function(function)
    _, after, (report,) = run_pass(model, X, FuseLayerNorm())
    assert report.rewrites == 0 and not report.declined
    assert_same(model, after, X)


def test_eps_that_float16_cannot_hold():
    model = nn.LayerNorm(8, eps=1e-12)
    x = X * 0.01
    _, after, (report,) = run_pass(model, x, FuseLayerNorm())
    assert "zero in float16" in report.notes[0]
    assert_same(model, after, x)
    _, after, (report,) = run_pass(model, x, FuseLayerNorm(min_eps=1e-7))
    (node,) = [n for n in after.graph.nodes if n.target is layer_norm]
    assert node.args[4] == 1e-7 and not report.notes
    # The documented price.
    assert_same(model, after, x, rtol=1e-7 / (2 * float(x.var(-1, correction=0).min())))
    with pytest.raises(AssertionError):
        assert_same(model, after, x)


@pytest.mark.parametrize("function", [channels_first, bias_before_weight])
def test_dynamic_width(function):
    model = Function(function, w=W, b=B)
    dims = {3: torch.export.Dim("width", min=2, max=64)}
    _, after, _ = run_pass(model, (IMAGE,), FuseLayerNorm(), dynamic_shapes=(dims,))
    assert count(after, layer_norm) == 1
    assert_same(model, after, seeded(2, 8, 3, 9))


def test_dynamic_tokens():
    model = nn.LayerNorm(8)
    dims = {1: torch.export.Dim("tokens", min=2, max=64)}
    _, after, _ = run_pass(model, (X,), FuseLayerNorm(), dynamic_shapes=(dims,))
    assert count(after, layer_norm) == 1
    assert_same(model, after, seeded(2, 11, 8))
