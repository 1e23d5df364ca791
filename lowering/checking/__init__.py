"""Preflight: everything that stands between a model and a package, in one table."""

from lowering.checking.result import Finding, Place, Placement, Preflight
from lowering.checking.rules import RULES, Rule, Severity
from lowering.checking.scan import check

__all__ = [
    "RULES",
    "Finding",
    "Place",
    "Placement",
    "Preflight",
    "Rule",
    "Severity",
    "check",
]
