"""What float16 does to the values of a model."""

import math

import pytest
import torch
from torch import nn

from frontend.errors import InputError
from lowering import ranges
from tests.lowering.precision.harmed_models import Angles, Counter, Function, Table, bias, fine

x = torch.linspace(-3, 3, 64).reshape(1, 64)


# Of what the interpreter does not do.
HARDWARE = ("fp16-subnormal", "fp16-accumulator")


def rules(found):
    return {finding.rule for finding in found.findings}


@pytest.mark.parametrize(
    ("function", "inputs", "rule", "op"),
    [
        (lambda x: (x + 1) * (x - 1), (400 * x,), "fp16-overflow", "mul"),
        (lambda x: (x @ torch.eye(64)).exp(), (4 * x,), "fp16-overflow", "exp"),
        (lambda x: x.softmax(-1).log(), (20 * x,), "fp16-vanishes", "log"),
        (lambda x: (1e-3 * x).square() * 1e6, (1e-2 * x,), "fp16-vanishes", None),
        (lambda x, y: (x + 999) - (y + 999), (x, x.flip(1)), "fp16-lost-digits", "sub"),
        (lambda x: (200 * x @ torch.eye(64)).cos(), (x,), "fp16-lost-digits", "cos"),
        (lambda x: torch.log(1 + 1e-3 * x.abs()), (x,), "fp16-lost-digits", "log"),
        (lambda x: x.cumsum(-1).diff(), (100 + x,), "fp16-lost-digits", "sub"),
        (nn.LayerNorm(64, eps=1e-12), (1e-3 * x,), "fp16-lost-digits", "layer_norm"),
        (lambda x: (x * 14) @ (x * 14).T, (x,), "fp16-accumulator", "matmul"),
        (lambda x: torch.relu(x) * 1e4, (1e-5 * x,), "fp16-subnormal", None),
    ],
)
def test_harm_is_found_with_its_line(function, inputs, rule, op):
    model = function if isinstance(function, nn.Module) else Function(function)
    found = ranges(model, inputs, pipeline=())  # passes write some of these in a form that holds
    (finding, *_) = [f for f in found.findings if f.rule == rule and op in (None, f.op)]
    assert op is None or ".py:" in finding.source.line
    assert finding.remedy and finding.call == "the example"
    assert finding.effect == max(found.outputs.values()) or rule in HARDWARE
    assert not found and rule in str(found)


def test_values_are_those_of_torch_and_nothing_is_found_without_harm():
    model, inputs = fine()
    found = ranges(model, inputs)
    last = found.values[-1]
    assert found and not found.findings
    assert (last.low, last.high) == (0.0, 6.0) and last.is_half
    assert last.smallest == pytest.approx(2 * 3 / 7)
    assert 0 < last.error < 1e-3
    assert math.isclose(found.outputs["output"], last.error)


def test_positions_are_tried_at_their_end_though_the_example_is_small():
    found = ranges(*bias())
    (finding, *_) = found.findings
    assert (finding.rule, finding.op) == ("fp16-overflow", "sub")
    assert "positions up to 4,095 (assumed)" in finding.call
    assert found.calls[0] == "the example" and len(found.calls) == 2


def test_what_bounds_positions_bounds_the_trial():
    assert ranges(Table(), (torch.arange(3),))
    assert ranges(*bias(), input_ranges={"positions": (0, 99)})


def test_operators_kept_in_float32_are_not_told_of():
    assert ranges(Angles(), (torch.arange(3),))  # convert computes angles in float32
    large = Function(lambda x: (x + 600).square().mean(-1).sqrt()), (x,)
    assert rules(ranges(*large, pipeline=())) == {"fp16-overflow"}
    kept = ranges(*large, pipeline=(), op_selector=lambda op: op.op_type == "add")
    assert kept and {v.op for v in kept.values if v.is_half} == {"add"}


def test_further_calls_widen_the_ranges():
    model, inputs = fine()
    found = ranges(model, [inputs, {"inputs_0": 3e4 * inputs[0]}, (inputs[0] * 5e4,)])
    assert found.values[-1].high == pytest.approx(3e5) and rules(found) == {"fp16-overflow"}
    assert found.calls == ("the example", "call 2", "call 3")
    assert found.findings[0].call in ("call 2", "call 3")


def test_written_buffers_are_followed():
    assert rules(ranges(Counter(), (torch.full((4,), 900.4),))) == {"fp16-lost-digits"}
    assert ranges(Counter(), (torch.full((4,), 0.4),))


@pytest.mark.parametrize("bounds", [{"position": (0, 9)}, {"positions": (9, 0)}])
def test_ranges_that_fit_no_input_are_refused(bounds):
    with pytest.raises(InputError, match="range"):
        ranges(Angles(), (torch.arange(3),), input_ranges=bounds)
