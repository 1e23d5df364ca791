"""Preflight: everything that stands between a model and a package, in one table."""

from lowering.preflight.result import Finding, Place, Placement, Preflight
from lowering.preflight.rules import RULES, Rule, Severity
from lowering.preflight.scan import preflight

__all__ = [
    "RULES",
    "Finding",
    "Place",
    "Placement",
    "Preflight",
    "Rule",
    "Severity",
    "preflight",
]
