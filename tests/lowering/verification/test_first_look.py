"""A package that passes is verified by its module alone; others are as before."""

import coremltools as ct
import pytest
import torch
from torch import nn

import lowering
import passes
from frontend.errors import CaptureError
from lowering.verification import Thresholds, VerificationError, verifier
from passes.pipeline_text import PipelineTextError
from tests.lowering.verification.test_verifier import net


class Two(nn.Module):
    """Takes its inputs in another order than by name, and gives two results of one shape."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, second, first, scale=None):
        mixed = self.linear(second) - first
        return mixed if scale is None else mixed * scale, mixed + second


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(1, 4))

    def forward(self, x):
        self.total.add_(x)
        return self.total * 2


class Beyond(nn.Module):
    """Torch overflows in half precision; the package does not."""

    def forward(self, x):
        return (x * 60000.0 * 60000.0).tanh()


def two():
    torch.manual_seed(0)
    return Two().eval(), (torch.randn(2, 8), torch.randn(2, 8))


def converted(model, inputs, **options):
    optimized = passes.optimize_for_ane(model, inputs)
    return lowering.convert(optimized, skip_model_load=True, **options)


@pytest.fixture
def captures(monkeypatch):
    """How often the original was captured."""
    counted = []
    whole = verifier.Original.of

    def of(*args, **kwargs):
        counted.append(1)
        return whole(*args, **kwargs)

    monkeypatch.setattr(verifier.Original, "of", of)
    return counted


@pytest.mark.parametrize("make", [net, two])
@pytest.mark.parametrize("precision", [ct.precision.FLOAT16, ct.precision.FLOAT32])
def test_what_passes_needs_no_capture_and_says_the_same(make, precision, captures):
    model, inputs = make()
    package = converted(model, inputs, compute_precision=precision)
    found = lowering.verify(package, model, inputs)
    assert found
    assert not captures
    metadata = dict(package.user_defined_metadata)
    whole = lowering.verify(package, verifier.Original.of(model, inputs, metadata=metadata))
    assert found.to_json() == whole.to_json()


def test_keywords_and_inferred_inputs(captures):
    model, (second, first) = two()
    package = converted(model, (second, first))
    assert lowering.verify(package, model, None, {"first": first, "second": second})
    assert lowering.verify(package, model, (second,), {"first": first, "scale": None})
    assert not captures
    swapped = lowering.verify(package, model, (first, second), locate=False)
    assert swapped  # other values, by the same names
    with pytest.raises(CaptureError):
        lowering.verify(package, model, ("no tensor", first))


def test_what_fails_is_explained(captures):
    model, inputs = net()
    package = converted(model, inputs)
    with torch.no_grad():
        model.second.down.weight[3] += 1.0
    found = lowering.verify(package, model, inputs)
    assert not found
    assert found.divergence.source.module == "second.down"
    assert captures


def test_states_steps_and_loose_yardsticks_take_the_whole_way(captures):
    x = torch.rand(1, 4)
    package = converted(Counting(), (x,), minimum_deployment_target=ct.target.iOS18)
    found = lowering.verify(package, Counting(), (x,))
    assert [item.name for item in found.outputs] == ["output", "state total"]
    assert len(captures) == 1
    model, inputs = net()
    plain = converted(model, inputs)
    assert lowering.verify(plain, model, inputs, steps=2).steps == 2
    assert len(captures) == 2
    wide = converted(Beyond(), (x,), compute_precision=ct.precision.FLOAT32)
    assert lowering.verify(wide, Beyond(), (x,))
    assert len(captures) == 2  # no half precision in it
    halved = lowering.verify(plain, model, inputs, thresholds=Thresholds(fp16_alone=1e-9))
    assert halved.passed
    assert len(captures) == 3


def test_faults_of_the_call_are_named_as_before():
    model, inputs = net()
    package = converted(model, inputs)
    with pytest.raises(VerificationError, match="other inputs"):
        lowering.verify(package, *two())
    package.user_defined_metadata["com.ane-passes.pipeline"] = '["no_such_pass"]'
    with pytest.raises(PipelineTextError):
        lowering.verify(package, model, inputs)
