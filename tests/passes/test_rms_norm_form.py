"""Forms of RMSNorm: equal in float32, and what float16 makes of each."""

import coremltools as ct
import pytest
import torch

from frontend.ops import layer_norm, rms_norm
from lowering.conversion.converter import convert
from lowering.reference import predict
from passes.errors import PassError
from passes.fuse_rms_norm import FuseRmsNorm
from passes.rms_norm_form import RmsNormForm
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
X = seeded(2, 5, 8)
W = seeded(8, seed=1)
FORMS = ("scaled", "layer_norm", "native")


def textbook(x, eps, axes=(-1,)):
    x = x.double()
    return x * torch.rsqrt((x * x).mean(axes, keepdim=True) + eps)


def run_form(x, form, axes=(2,), eps=1e-6, weight=W, **options):
    """RMSNorm as a program that was captured and put into a form."""

    def function(m, x):
        normed = x * torch.rsqrt(x.pow(2).mean(axes, keepdim=True) + eps)
        return normed if weight is None else normed * m.w

    model = Function(function, **({} if weight is None else {"w": weight}))
    return (model, *run_pass(model, x, FuseRmsNorm(), RmsNormForm(form=form, **options)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("weight", [W, None])
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e4])
def test_same_numbers(form, weight, scale):
    x = X * scale
    model, _, after, (_, report) = run_form(x, form, weight=weight)
    assert_same(model, after, x)
    assert count(after, rms_norm) == (form == "native")
    assert count(after, layer_norm) == (form == "layer_norm")
    assert count(after, aten.amax.default) == (form == "scaled")
    assert report.rewrites == (form != "native") and not report.declined
    if weight is not None and scale == 1.0:
        assert_differs_when_perturbed(after, model, x)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("axes", "weight"), [((1,), seeded(5, 1)), ((1, 2), seeded(5, 8))])
def test_other_axes(form, axes, weight):
    model, _, after, _ = run_form(X, form, axes=axes, weight=weight)
    assert_same(model, after, X)


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_zeros(form):
    model, _, after, _ = run_form(X, form)
    x = X.clone()
    x[0, 1] = 0
    assert_same(model, after, x)
    assert torch.equal(outputs(after, x)[0][0, 1], torch.zeros(8))


@pytest.mark.parametrize("form", ["layer_norm", "native"])
def test_prescale(form):
    model, _, after, (_, report) = run_form(X, form, prescale=1 / 64)
    assert report.rewrites == 1
    assert_same(model, after, X)
    (node,) = [n for n in after.graph.nodes if n.target in (layer_norm, rms_norm)]
    assert node.args[-1] == pytest.approx(1e-6 / 64**2)


@pytest.mark.parametrize("options", [{"form": "fast"}, {"prescale": 0.0}, {"prescale": -1.0}])
def test_wrong_options(options):
    with pytest.raises(PassError, match="rms_norm_form"):
        RmsNormForm(**options)


@pytest.mark.parametrize("form", FORMS)
def test_dynamic_tokens(form):
    model = Function(lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, True) + 1e-6) * m.w, w=W)
    dims = ({1: torch.export.Dim("tokens", min=2, max=64)},)
    _, after, _ = run_pass(model, (X,), FuseRmsNorm(), RmsNormForm(form=form), dynamic_shapes=dims)
    assert_same(model, after, seeded(2, 11, 8))


def test_layer_norm_form_refuses_a_dynamic_axis():
    model = Function(lambda m, x: x * torch.rsqrt(x.pow(2).mean(1, True) + 1e-6))
    dims = ({1: torch.export.Dim("tokens", min=2, max=64)},)
    passes = (FuseRmsNorm(), RmsNormForm(form="layer_norm"))
    _, after, (_, report) = run_pass(model, (X,), *passes, dynamic_shapes=dims)
    assert "dynamic size" in report.declined[0].reason and count(after, rms_norm) == 1
    _, after, _ = run_pass(model, (X,), FuseRmsNorm(), RmsNormForm(), dynamic_shapes=dims)
    assert_same(model, after, seeded(2, 11, 8))


class Float16(torch.fx.Interpreter):
    """Runs a program's operators in float32 and rounds numbers and results to float16."""

    def call_function(self, target, args, kwargs):
        def rounded(number):
            return float(torch.tensor(number).half())

        args = torch.utils._pytree.tree_map_only(float, rounded, args)
        result = super().call_function(target, args, kwargs)
        return result.half().float() if isinstance(result, torch.Tensor) else result


def half_error(program, x):
    """Largest error of a float16 run relative to each row's largest result."""
    x = x.clamp(-65504, 65504).half().float()
    found = torch.utils._pytree.tree_leaves(Float16(program.module()).run(x))[0]
    wanted = textbook(x, 1e-6)
    return float(((found - wanted).abs() / wanted.abs().amax(-1, keepdim=True)).max())


# The table in RmsNormForm's docstring, with a margin of two; n = 2048.
BOUNDS = {
    "scaled": dict.fromkeys((1e-3, 1e-2, 1.0, 30.0, 300.0, 3e3, 1.5e4), 2e-3),
    "layer_norm": dict.fromkeys((1e-2, 1.0, 30.0, 300.0, 3e3, 1.5e4), 1e-3) | {1e-3: 8e-3},
}


@pytest.mark.parametrize(
    ("form", "size"), [(form, size) for form, sizes in BOUNDS.items() for size in sizes]
)
def test_float16_error(form, size):
    x = seeded(1, 16, 2048)
    _, _, after, _ = run_form(x, form, weight=None)
    assert half_error(after, x * size) < BOUNDS[form][size]


@pytest.mark.parametrize("size", [300.0, 3e3])
def test_textbook_form_is_not_safe_in_float16(size):
    """The reason for the forms, and a proof that the measurement above can fail."""
    x = seeded(1, 16, 2048)
    before, _, _ = run_pass(
        Function(lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, True) + 1e-6)), x, FuseRmsNorm()
    )
    assert half_error(before, x * size) > 0.9


@pytest.mark.parametrize("size", [1e-3, 1.0, 3e4])
def test_scaled_form_holds_with_float16_sums(size):
    """Even where every addition of the sum rounds to float16."""
    x = (seeded(4, 64) * size).clamp(-65504, 65504).half()
    largest = x.abs().amax(-1, keepdim=True).clamp(min=1e-3)
    small = x / largest
    total = torch.zeros(4, 1, dtype=torch.half)
    for column in (small * small).split(1, dim=-1):
        total = total + column
    floor = (1e-3 / largest) ** 2
    found = small * torch.rsqrt(total / 64 + floor)
    wanted = textbook(x, 1e-6)
    assert ((found - wanted).abs() / wanted.abs().amax(-1, keepdim=True)).max() < 4e-3


@pytest.mark.parametrize("form", ["scaled", "native"])
@pytest.mark.parametrize("precision", ["fp16", "strict"])
@pytest.mark.parametrize("size", [1.0, 300.0, 3e3])
def test_in_a_package(form, precision, size):
    """The finished program, in the interpreter; strict rounds every addition."""
    x = (seeded(1, 4, 64) * size).half().float()
    _, _, after, _ = run_form(x, form, weight=None)
    package = convert(after, minimum_deployment_target=ct.target.iOS17)
    (found,) = predict(package, {"x": x.numpy()}, precision=precision).values()
    wanted = textbook(x, 1e-6)
    error = (torch.tensor(found) - wanted).abs() / wanted.abs().amax(-1, keepdim=True)
    assert error.max() < 4e-3
