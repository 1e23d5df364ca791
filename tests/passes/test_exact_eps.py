"""An eps that float16 cannot hold: two norms, the same numbers, and right in float16."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from frontend.ops import layer_norm
from lowering import convert, predict
from passes.exact_eps import ExactEps
from passes.fuse_layer_norm import FuseLayerNorm
from tests.passes.util import (
    Function,
    assert_differs_when_perturbed,
    assert_same,
    count,
    outputs,
    reasons,
    run_pass,
    seeded,
)

aten = torch.ops.aten
X = seeded(4, 8, 24)
W, B = seeded(24, seed=1), seeded(24, seed=2)


def written(m, x, eps=1e-12):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt() * m.w + m.b


NORMS = {
    "layer": lambda m, x: F.layer_norm(x, (24,), m.w, m.b, 1e-12),
    "layer, plain": lambda m, x: F.layer_norm(x, (8, 24), eps=1e-10),
    "layer, 1e-6": lambda m, x: F.layer_norm(x, (24,), m.w, None, 1e-6),
    "layer, 1e-8": lambda m, x: F.layer_norm(x, (24,), m.w, None, 1e-8),
    "written": written,
    "group": lambda m, x: F.group_norm(x, 2, m.w[:8], m.b[:8], 1e-10),
    "instance": lambda m, x: F.instance_norm(x, weight=m.w[:8], bias=m.b[:8], eps=1e-9),
}


@pytest.mark.parametrize("name", NORMS)
def test_same_numbers_and_right_in_float16(name):
    model = Function(NORMS[name], w=W, b=B)
    _, after, (_, report) = run_pass(model, X, FuseLayerNorm(), ExactEps())
    assert report.rewrites == 1 and not report.declined
    package = convert(after, skip_model_load=True)
    for size in (1e-5, 1e-3, 1.0, 100.0):
        x = (X * size).half().float()
        assert_same(model, after, x, atol=1e-5)
        (found,), (want,) = predict(package, {"x": x.numpy()}).values(), outputs(model, x)
        assert (torch.from_numpy(found) - want).norm() / want.norm() < 2e-3, size
    if "plain" not in name:
        assert_differs_when_perturbed(after, model, X)


def test_without_the_pass_the_package_is_wrong():
    model, x = Function(NORMS["layer"], w=W, b=B), (X * 1e-3).half().float()
    before, _, _ = run_pass(model, x)
    (found,), (want,) = predict(convert(before), {"x": x.numpy()}).values(), outputs(model, x)
    assert (torch.from_numpy(found) - want).norm() / want.norm() > 0.01


def test_equal_numbers_give_the_bias():
    model = Function(NORMS["layer"], w=W, b=B)
    _, after, _ = run_pass(model, X, FuseLayerNorm(), ExactEps())
    (found,) = predict(convert(after), {"x": 0 * X.numpy() + 3}).values()
    assert torch.allclose(torch.from_numpy(found).float(), B.expand_as(X), atol=1e-3)


@pytest.mark.parametrize("eps", [0.0, 1e-5, 1e-3])
def test_what_float16_holds_stays(eps):
    model = Function(lambda m, x: F.layer_norm(x, (24,), eps=eps))
    _, after, (_, report) = run_pass(model, X, FuseLayerNorm(), ExactEps())
    assert report.rewrites == 0 and count(after, layer_norm) == 1


def test_refuses_stored_statistics():
    norm = nn.InstanceNorm1d(8, eps=1e-8, track_running_stats=True).eval()
    _, _, (report,) = run_pass(norm, X, ExactEps())
    assert report.rewrites == 0 and all("stored" in reason for reason in reasons(report))
