"""Logarithms whose operand leaves float16: equal in float32, and right in a package."""

import math

import pytest
import torch
from torch.nn import functional as F

from lowering import convert, predict
from passes.fuse_activations import FuseActivations
from passes.stable_logs import StableLogs
from passes.stable_roots import StableRoots
from tests.passes.util import Function, assert_same, count, outputs, reasons, run_pass, seeded

aten = torch.ops.aten
X = seeded(4, 24)
LARGE = X * 20
P = torch.rand(4, 24, generator=torch.Generator().manual_seed(0))
ENDS = torch.cat([P, torch.tensor([[0.0, 1.0]] * 4)], 1)  # probabilities, certain ones as well
STEPS = (FuseActivations(), StableLogs(), StableRoots())
LOGS = (aten.log.default, aten.log1p.default, aten.log2.default, aten.log10.default)

# What loses everything in float16: a function, an input, and how many logarithms stay.
LOST = {
    "softmax": (lambda m, x: x.softmax(-1).log(), X * 10, 0),
    "softmax, base 2": (lambda m, x: x.softmax(0).log2(), LARGE, 0),
    "class": (lambda m, x: -x.softmax(-1)[:, 3].log(), LARGE, 0),
    "classes": (lambda m, x: x.softmax(-1).gather(1, torch.ones(4, 2).long()).log10(), LARGE, 0),
    "class, reshaped": (lambda m, x: x.softmax(-1).reshape(2, 2, 24).amax(2).log(), LARGE, 0),
    "softmax, eps": (lambda m, x: (x.softmax(-1) + 1e-9).log(), LARGE, 1),
    "softmax, bounded": (lambda m, x: x.softmax(-1).clamp(min=1e-12).log(), LARGE, 0),
    "some classes": (lambda m, x: x.softmax(-1)[:, :4].sum(-1).log(), LARGE, 0),
    "sigmoid": (lambda m, x: x.sigmoid().log(), LARGE, 0),
    "rest of sigmoid": (lambda m, x: (1 - x.sigmoid()).log(), -LARGE.abs() + 4, 0),
    "cross-entropy": (
        lambda m, x: F.binary_cross_entropy(x.sigmoid(), (m.t > 0).float(), reduction="none"),
        (X * 9).clamp(max=4),
        0,
    ),
    "sum": (lambda m, x: x.exp().sum(-1).log(), LARGE, 0),
    "small sum": (lambda m, x: x.exp().sum((0, 1), keepdim=True).log(), -LARGE.abs() - 20, 0),
    "mean": (lambda m, x: x.exp().mean(-1, keepdim=True).log(), LARGE, 0),
    "pair": (lambda m, x: (x.exp() + x.flip(0).exp()).log(), LARGE, 1),
    "temperature": (lambda m, x: 0.5 * ((x / 0.5).exp().sum(-1) / 24).log(), X * 10, 0),
    "softplus": (lambda m, x: (1 + x.exp()).log(), LARGE, 0),
    "softplus, log1p": (lambda m, x: torch.log1p(x.exp()), LARGE, 0),
    "logcosh": (lambda m, x: torch.log(torch.cosh(x)), LARGE, 0),
    "odds of sigmoid": (
        lambda m, x: (x.sigmoid() / (1 - x.sigmoid())).log(),
        (X * 5).clamp(max=4),
        0,
    ),
    "bounded power": (
        lambda m, x: (m.mel @ x.square()).clamp(min=1e-10).log10(),
        X * (X > 0) * 4,
        1,
    ),
    "bounded below": (lambda m, x: x.clamp(min=1e-9).log(), X, 1),
    "level": (lambda m, x: 10 * x.square().mean(-1).log10(), X * 1e3, 1),
    "level of little": (lambda m, x: ((x * x).sum(-1) + 1e-12).log(), X * 1e-4, 2),
    "spread": (lambda m, x: x.var(-1).log(), X * 1e3, 1),
    "ratio of levels": (
        lambda m, x: (x.square().mean(-1) / (0.1 * x.flip(0)).square().mean(-1)).log10(),
        X * 1e3,
        2,
    ),
    "logit": (lambda m, x: torch.logit(x, 1e-6), ENDS, 2),
    "inverse sigmoid": (
        lambda m, x: (x.clamp(0, 1).clamp(min=1e-5) / (1 - x.clamp(0, 1)).clamp(min=1e-5)).log(),
        ENDS,
        2,
    ),
}


def model_of(name):
    constants = {"t": seeded(4, 24, seed=2), "mel": seeded(3, 4, seed=1).abs() * (seeded(3, 4) > 0)}
    return Function(LOST[name][0], **constants), LOST[name][1], LOST[name][2]


@pytest.mark.parametrize("name", LOST)
def test_same_numbers_and_no_detour(name):
    model, x, left = model_of(name)
    _, after, reports = run_pass(model, x, *STEPS)
    assert reports[1].rewrites >= 1 and not reports[1].declined
    assert count(after, *LOGS) == left
    for inputs in (x, x * 0.3, x.flip(0)):
        assert_same(model, after, inputs)


@pytest.mark.parametrize("name", LOST)
def test_float16(name):
    model, x, _ = model_of(name)
    x = x.half().float()
    _, after, _ = run_pass(model, x, *STEPS)
    (found,) = predict(convert(after, skip_model_load=True), {"x": x.numpy()}).values()
    (want,) = outputs(model, x)
    error = (torch.from_numpy(found).reshape(want.shape) - want).norm() / want.norm()
    assert error < 2e-3


def test_without_the_pass_the_package_is_wrong():
    model, x, _ = model_of("softmax")
    _, before, _ = run_pass(model, x, FuseActivations())
    (found,) = predict(convert(before, skip_model_load=True), {"x": x.numpy()}).values()
    assert math.isinf(found.min())


def test_dynamic_sizes():
    model = Function(lambda m, x: (x.softmax(-1) + 1e-9).log() + x.exp().sum(1, True).log())
    dims = ({1: torch.export.Dim("classes", min=2, max=64)},)
    _, after, (report,) = run_pass(model, (LARGE,), StableLogs(), dynamic_shapes=dims)
    assert report.rewrites == 2
    assert_same(model, after, LARGE[:, :7])


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: (x.abs() + 0.5).log(),
        lambda m, x: (x.softmax(-1) + 1.0).log(),
        lambda m, x: torch.log1p(x.abs()),
        lambda m, x: (1 - x.softmax(-1)).log(),
        lambda m, x: (2 - x.sigmoid()).log(),
        lambda m, x: (x.abs() / (x.abs() + 1)).log(),
        lambda m, x: (x.abs() + 1e-9).log(),
    ],
)
def test_what_is_left_alone(function):
    _, after, (report,) = run_pass(Function(function), X, StableLogs())
    assert report.rewrites == 0 and not report.declined and count(after, *LOGS) == 1


def test_refuses_a_quotient_of_unknown_sign():
    model = Function(lambda m, x: (x / x.flip(0).clamp(min=1e-6)).log())
    _, _, (report,) = run_pass(model, X, StableLogs())
    assert "signs" in reasons(report)[0] and report.rewrites == 0
