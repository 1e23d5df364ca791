"""The result model: verdicts, and JSON there and back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lowering.ablation.result import Ablation, Figures, Observed, Predicted, VariantResult
from lowering.planner.mil_stats import MilStats


def figures(latency: float | None, price: float = 1.0, spread: float = 1.5) -> Figures:
    low, high = (None, None) if latency is None else (latency / spread, latency * spread)
    predicted = Predicted("M4", 1.0, 1.0, 1, 2, price, latency, low, high, "a note")
    stats = MilStats(3, {"conv": 2, "add": 1}, 1, 100, 256, 64)
    return Figures(stats, 10, 1e-3, 2e-3, (predicted,), Observed(0.5, 2.0, 7))


def ablation(*variants: VariantResult) -> Ablation:
    default = VariantResult("default", "default", ("FoldConstants()",), figures=figures(2.0, 4.0))
    return Ablation("tiny", ("M4",), "iOS17", "default", 1e-3, (default, *variants))


@pytest.mark.parametrize(
    ("latency", "verdict"),
    [
        (2.0, "no measurable difference"),
        (2.9, "no measurable difference"),
        (1.4, "no measurable difference"),
        (3.1, "slower"),
        (1.3, "faster"),
        (None, "unknown"),
    ],
)
def test_verdict_by_the_interval_of_the_default(latency, verdict):
    variant = VariantResult("alone x", "alone", (), figures=figures(latency, 2.0))
    found = ablation(variant).difference(variant, "M4")
    assert found.verdict == verdict
    assert found.price_ratio == 0.5
    assert found.latency_ratio == (None if latency is None else latency / 2.0)


def test_same_program_and_failure():
    same = VariantResult("a", "without", (), same_as="default", figures=figures(2.0))
    failed = VariantResult("b", "without", (), failure="no")
    found = ablation(same, failed)
    assert found.difference(same, "M4").verdict == "same program"
    assert found.difference(failed, "M4").verdict == "unknown"
    assert found.difference(found.variant("default"), "M4").verdict == "same program"


def test_json_there_and_back():
    variant = VariantResult(
        "attention=batched",
        "form",
        ("A()", "B(x=1)"),
        {"attention": "batched"},
        *(3, 2, 0.25),
        figures=figures(None),
    )
    found = ablation(variant, replace(variant, name="broken", figures=None, failure="why"))
    text = json.dumps(found.to_json())
    assert Ablation.from_json(json.loads(text)) == found
    first = json.loads(text)["variants"][1]
    assert first["difference"]["M4"] == {
        "verdict": "unknown",
        "latency_ratio": None,
        "price_ratio": 0.25,
    }
    assert first["figures"]["predicted"][0]["kind"] == "predicted"
