"""Every obstacle at once, whether the model can be captured or not."""

import json
import warnings

import coremltools as ct
import pytest
import torch
from torch import nn
from torch.export import Dim

from frontend.errors import CaptureError
from lowering.checking import RULES, Severity, check
from lowering.conversion.composites import composite
from passes import optimize_for_ane
from tests.lowering.checking.preflight_models import (
    IDS,
    Convertible,
    Counting,
    Nested,
    Obstacles,
    Two,
    X,
)


def rules(found):
    return {finding.rule for finding in found.findings}


def only(found, rule):
    (finding,) = [finding for finding in found.findings if finding.rule == rule]
    return finding


@pytest.fixture(scope="module")
def obstacles():
    model = Obstacles()
    before = model.linear.weight.clone()
    found = check(model, (X, IDS))
    assert model.training and torch.equal(model.linear.weight, before)
    return found


def test_a_model_that_cannot_be_captured(obstacles):
    assert not obstacles and not obstacles.captured and obstacles.placement is None
    assert rules(obstacles) == {
        "value-in-python", "unsupported-op", "rank-above-5", "input-written", "int64-range",
        "random-op", "fp16-overflow", "data-dependent-shape", "training-mode", "branch-on-data",
        "float64-narrowed", "fp16-tiny-constant",
    }  # fmt: skip
    severities = [finding.severity for finding in obstacles.findings]
    assert severities == sorted(severities, reverse=True)


@pytest.mark.parametrize(
    ("rule", "op", "line"),
    [
        ("value-in-python", "aten.item.default", "count = int(ids.max())"),
        ("unsupported-op", "aten.linalg_qr.default", "q = torch.linalg.qr(h)[0]"),
        ("rank-above-5", "aten.view.default", "ranks = h.view(2, 2, 1, 1, 2, 1)"),
        ("input-written", "aten.add_.Tensor", "x.add_(1)"),
        ("random-op", "aten.randn_like.default", "noise = torch.randn_like(h)"),
        ("data-dependent-shape", "aten.index.Tensor", "kept = h[h > 0]"),
        ("fp16-overflow", "aten.exp.default", "large = (h * 0 + 12).exp() * 1000"),
        ("branch-on-data", "aten.is_nonzero.default", "if h.sum() > 0:"),
        ("float64-narrowed", "aten.to.dtype", "wide = h.double().sum()"),
    ],
)
def test_each_has_its_line(obstacles, rule, op, line):
    finding = only(obstacles, rule)
    (place,) = finding.places
    assert finding.op == op
    assert place.line.startswith("preflight_models.py:") and place.line.endswith(line)


def test_it_is_json(obstacles):
    document = json.loads(json.dumps(obstacles.to_json()))
    assert document["captured"] is False and document["convertible"] is False
    assert {entry["rule"] for entry in document["findings"]} == rules(obstacles)
    assert document["counts"]["fatal"] == 3


def test_a_program_that_converts():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = check(Convertible().eval(), (X, IDS))
    assert found and found.captured
    assert {"fp16-overflow", "fp16-tiny-constant", "branch-on-data", "value-baked-in"} <= rules(
        check(Convertible().eval(), (X, IDS, 3), trial=False)
    )
    assert only(found, "int64-range").severity is Severity.NOTE  # a sentinel that is only compared
    assert "1e+09" in only(found, "fp16-large-constant").message
    assert "op.cumsum" in rules(found)  # a reason of the planner's
    assert found.placement.complete and found.placement.ops > found.placement.on_ane
    assert "predicted" in json.dumps(found.to_json()["placement"])


def test_without_obstacles():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(64, 256, 3), nn.Conv2d(256, 256, 3)

        def forward(self, x):
            return self.second(self.first(x))

    found = check(Wide().eval(), (torch.randn(1, 64, 64, 64),))
    assert found and not found.at_least(Severity.SLOW)
    assert found.placement.on_ane == found.placement.ops


def test_what_follows_a_missing_lowering_is_still_looked_at():
    found = check(Two().eval(), (torch.randn(3, 3),))
    missing = only(found, "unsupported-op")
    assert missing.count == 2 and len(set(missing.places)) == 2
    assert "op.cumsum" in rules(found) and not found.placement.complete


def test_every_lowering_that_fails_is_found():
    def refuses(mb, x):
        return mb.no_such_operator(x=x)

    broken = [
        composite(op, samples=[(X,)])(refuses)
        for op in (torch.ops.aten.erfinv.default, torch.ops.aten.digamma.default)
    ]

    class Both(nn.Module):
        def forward(self, x):
            return torch.erfinv(x).relu() + torch.digamma(x)

    found = check(Both().eval(), (X,), composites=broken)
    failed = [finding for finding in found.findings if finding.rule == "lowering-failed"]
    assert {finding.op for finding in failed} == {"aten.erfinv.default", "aten.digamma.default"}
    assert all("torch.erfinv(x).relu()" in finding.places[0].line for finding in failed)
    assert found.placement.ops >= 2  # relu and add


def test_states():
    found = check(Counting().eval(), (torch.ones(3),), trial=False)
    assert {"state-needs-ios18", "integer-state"} <= rules(found)
    later = check(
        Counting().eval(), (torch.ones(3),), trial=False,
        minimum_deployment_target=ct.target.iOS18,
    )  # fmt: skip
    assert "state-needs-ios18" not in rules(later) and "integer-state" in rules(later)


def test_places_are_module_paths():
    class Inner(nn.Module):
        def forward(self, x):
            return torch.linalg.qr(x)[0]

    found = check(nn.Sequential(Inner(), nn.ReLU(), Inner()), (torch.randn(3, 3),), trial=False)
    assert [place.module for place in only(found, "unsupported-op").places] == ["0", "2"]


def test_a_model_that_does_not_run():
    found = check(nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 2)), (X,))
    finding = only(found, "does-not-run")
    assert "mat1 and mat2" in finding.message and not found


def test_dynamic_sizes():
    shapes = {"input": {0: Dim("batch", min=1)}}
    found = check(nn.ReLU(), (X,), dynamic_shapes=shapes)
    assert only(found, "unbounded-size").severity is Severity.FATAL
    bounded = check(nn.ReLU(), (X,), dynamic_shapes={"input": {0: Dim("batch", max=8)}})
    assert bounded and only(bounded, "shape.symbolic").severity is Severity.OFF_ANE
    wrong = check(nn.ReLU(), (X,), dynamic_shapes={"x": {0: Dim("batch", max=8)}})
    assert rules(wrong) == {"dynamic-shapes-structure"}
    fixed = check(nn.Flatten(0), (X,), dynamic_shapes={"input": {0: 2}})
    assert "size-fixed-by-model" not in rules(fixed)


def test_refusals_of_branches_and_what_is_left_out():
    class Loops(nn.Module):
        def forward(self, x):
            while x.abs().max() > 0.5:
                x = x * 0.5
            return x

    assert (
        only(check(Loops(), (X,)), "branch-not-merged")
        .places[0]
        .line.endswith("while x.abs().max() > 0.5:")
    )

    class Extra(nn.Module):
        def forward(self, x):
            assert x.sum() < 1e9
            return x * 2, object()

    found = rules(check(Extra(), (X,), trial=False))
    assert {"result-left-out", "path-assumed-away"} <= found


def test_optimized_models_and_programs_are_taken():
    optimized = optimize_for_ane(nn.Linear(4, 4), (X,))
    assert check(optimized, trial=False)
    program = torch.export.export(nn.Linear(4, 4), (X,))
    assert check(program, trial=False).captured


def test_without_inputs_there_is_nothing_to_look_at():
    with pytest.raises(CaptureError, match="example inputs are needed"):
        check(nn.Linear(4, 4))
    with pytest.raises(CaptureError, match="only modules"):
        check(torch.relu, (X,))


def test_own_rules_are_all_explained(obstacles):
    for finding in obstacles.findings:
        rule = RULES[finding.rule]
        assert rule.cause.endswith(".") and finding.automatic == rule.automatic
    assert check(Nested().eval(), (X,), trial=False).captured


class Kept:
    """A cache, which is no tensor."""


class Decoder(nn.Module):
    """Takes a cache and returns it."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(16, 8), nn.Linear(8, 16)

    def forward(self, input_ids, past_key_values=None, use_cache=True):
        return self.head(self.embed(input_ids)), Kept()


class Encoder(Decoder):
    """Returns an object that is no cache."""

    def forward(self, input_ids):
        return self.head(self.embed(input_ids)), Kept()


def test_a_decoder_without_its_cache_is_told_where_to_go():
    ids = torch.tensor([[1, 5, 3]])
    finding = only(check(Decoder(), (ids,), trial=False), "decoder-without-cache")
    assert "export_decoder" in RULES[finding.rule].remedy and finding.severity is Severity.NOTE
    assert "decoder-without-cache" not in rules(check(Encoder(), (ids,), trial=False))
    plain = check(Obstacles(), (X, IDS), trial=False)
    assert "decoder-without-cache" not in rules(plain)
