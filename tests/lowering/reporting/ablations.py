"""Ablations made by hand."""

from __future__ import annotations

from lowering.ablation.result import Ablation, Figures, Observed, Predicted, VariantResult
from lowering.planner.mil_stats import MilStats


def figures(ms, price, ops=10):
    """Figures on an M4 with a predicted time, an interval of a quarter, and a price."""
    time = (None, None, None) if ms is None else (ms, ms * 0.75, ms * 1.25)
    return Figures(
        MilStats(ops, {"conv": ops}, 2, 1_000_000, 2_000_000, 500_000),
        3_000_000,
        1e-3,
        2e-3,
        (Predicted("M4", 0.9, 0.95, 1, 2, price, *time, "fitted"),),
        Observed(1.5, 2.5, 1_000),
    )


def variant(name, kind, made=None, same_as=None, passes=("One()",)):
    failure = "" if made else "the converter failed\nsomewhere"
    return VariantResult(name, kind, passes, same_as=same_as, figures=made, failure=failure)


def ablation(model="model", default=2.0):
    """A default, no pass, one that pays, one that does nothing, one that costs, and a failure."""
    base = figures(default, 4.0)
    return Ablation(
        model,
        ("M4",),
        "iOS17",
        "default",
        1e-3,
        (
            variant("default", "default", base, passes=("One()", "Two()")),
            variant("original", "original", figures(default * 2, 8.0, 20), passes=()),
            variant("without one", "without", figures(default * 1.1, 4.4)),
            variant("without two", "without", base, same_as="default"),
            variant("without three", "without", figures(default * 0.5, 4.001)),
            variant("one alone", "alone"),
            variant("first 1, to one", "prefix", figures(default * 1.5, 6.0)),
            variant("attention=batched", "form", figures(default, 2.0)),
        ),
    )
