"""Preflight: everything that stands between a model and a package, in one table."""

from lowering.checking.result import Finding, PlacementSummary, Preflight
from lowering.checking.rules import RULES, Rule, Severity
from lowering.checking.scan import check

__all__ = [
    "RULES",
    "Finding",
    "PlacementSummary",
    "Preflight",
    "Rule",
    "Severity",
    "check",
]
