"""What float16 harms is found before a conversion."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from frontend.capturing import capture
from lowering import check
from lowering.checking import half_run
from lowering.checking.program_scan import scan_values
from lowering.checking.result import Findings
from lowering.checking.rules import Severity
from lowering.checking.suspects import Suspects
from tests.lowering.precision.harmed_models import Function, bias

x = torch.linspace(-3, 3, 64).reshape(1, 64)


def found_in(function, *inputs):
    model = function if isinstance(function, nn.Module) else Function(function)
    return check(model, inputs, pipeline=()).findings


@pytest.mark.parametrize(
    ("function", "given", "rule"),
    [
        (lambda x: (x + 1) * (x - 1), 400 * x, "fp16-overflow"),
        (lambda x: x.softmax(-1).log(), 20 * x, "fp16-vanishes"),
        (lambda x: torch.log(1 + 1e-3 * x), x, "fp16-lost-digits"),
        # The constant alone: both eps are the same when the package runs.
        (nn.LayerNorm(64, eps=1e-12), 1e-3 * x, "fp16-lost-digits"),
    ],
)
def test_harm_on_the_example_is_wrong(function, given, rule):
    (finding, *_) = [f for f in found_in(function, given) if f.rule == rule]
    assert finding.severity is Severity.WRONG


def test_harm_that_no_output_shows_is_a_note():
    def lost(x):
        return x + 1e-3 * ((x + 999) - (x.flip(1) + 999))

    (finding,) = [f for f in found_in(lost, x) if f.rule == "fp16-lost-digits"]
    assert finding.severity is Severity.NOTE


def test_positions_are_tried_at_their_end_and_places_are_told_once():
    model, inputs = bias()
    (finding,) = [f for f in check(model, inputs).findings if f.rule == "fp16-overflow"]
    assert "positions up to 4,095 (assumed)" in finding.message and finding.count == 1
    assert "x - 20 * positions" in finding.places[0].line
    # What the plain run has seen is not told again of the lowered operator.
    overflows = [
        f for f in found_in(lambda x: (300 * x) ** 2 / 9e4, x) if f.rule == "fp16-overflow"
    ]
    assert [f.op for f in overflows] == ["aten.pow.Tensor_Scalar"]


def test_networks_without_suspects_are_not_run_again(monkeypatch):
    monkeypatch.setattr(half_run, "Survey", None)  # would fail where it is called
    net = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.LayerNorm(64), nn.Softmax(-1))
    assert not [f for f in found_in(net, x) if f.rule.startswith("fp16-")]


def moved_mean(mean):
    norm = nn.BatchNorm1d(64)
    norm.running_mean.fill_(mean)
    return norm.eval()


@pytest.mark.parametrize(
    ("function", "given", "suspect"),
    [
        (lambda x: x.relu() + x, x, False),
        (lambda x: x.masked_fill(x > 0, -1e9).softmax(-1), x, False),
        (lambda x: (x + torch.where(x > 0, 0.0, -1e4)).softmax(-1), x, False),
        (nn.LayerNorm(64), x, False),
        (nn.LayerNorm(64), 1e-3 * x, True),
        (lambda x: x.exp(), x, True),
        (lambda x: (x + 9) - (x + 8.9), x, True),
        (lambda x: (9 * x).softmax(-1), x, True),
        (lambda x: 1e4 * x, x, True),
        (lambda x: 1e-5 * x, x, True),
        # Numbers that vary little beside what they have in common, and what is left of them.
        (nn.GroupNorm(4, 64), x + 500, True),
        (nn.GroupNorm(1, 64), x + 2, False),
        (nn.LayerNorm(64), x + 100, True),
        (moved_mean(100.0), x + 100, True),
        (moved_mean(1.0), x, False),
        (lambda x: F.conv1d(x[None], torch.tensor([[[1.0, -2.0, 1.0]]])), x + 9, True),
        (lambda x: F.conv1d(x[None], torch.tensor([[[1.0, 2.0, 1.0]]])), x + 9, False),
        (lambda x: x @ (torch.eye(64) - 1 / 64), x + 100, True),
        (lambda x: x @ torch.eye(64), x + 100, False),
        (lambda x: x.mean(-1), x + 0.02, True),
        (lambda x: x.mean(-1), x + 9, False),
    ],
)
def test_suspects(function, given, suspect):

    model = function if isinstance(function, nn.Module) else Function(function)
    suspects = Suspects()
    assert scan_values(capture(model, (given,)), Findings(), suspects)
    assert suspects.found is suspect
