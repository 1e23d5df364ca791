"""The table of rules, and the errors and reasons that it explains."""

import pytest

import frontend.branches
import frontend.errors
import lowering.errors
from frontend.errors import AnePassesError
from lowering.checking import RULES, Severity
from lowering.checking.explain import RuleError, all_rules, explain
from lowering.planner.capabilities import rules as capability_rules


def errors_with_rules(base):
    for kind in base.__subclasses__():
        if kind.rule and kind.__module__.startswith(("frontend", "passes", "lowering")):
            yield kind
        yield from errors_with_rules(kind)


def test_every_rule_says_what_to_do():
    for rule in RULES.values():
        assert rule.cause.endswith((".", "!")), rule.id
        assert rule.automatic or rule.remedy, rule.id
        assert all(text.endswith(".") for text in (rule.automatic, rule.remedy) if text), rule.id


def test_every_error_names_a_rule_that_there_is():
    kinds = set(errors_with_rules(AnePassesError))
    assert {frontend.branches.BranchError, lowering.errors.LoweringError} <= kinds
    assert frontend.errors.DynamicShapesError in kinds
    assert {kind.rule for kind in kinds} <= set(RULES)


def test_the_planners_reasons_are_explained():
    known = {entry.rule.id: entry for entry in all_rules()}
    assert len(known) == len(all_rules())
    for rule in capability_rules():
        entry = known[rule.reason.rule]
        assert entry.kind == "placement" and entry.rule.severity is Severity.OFF_ANE
        assert rule.reason.evidence in entry.rule.evidence
    assert "segment.price" in known


def test_worst_first():
    own = [entry.rule.severity for entry in all_rules() if entry.kind == "preflight"]
    assert own == sorted(own, reverse=True) and own[0] is Severity.FATAL


def test_an_unknown_rule_has_neighbours():
    assert explain("value-in-python").rule.severity is Severity.FATAL
    with pytest.raises(RuleError, match=r"dtype\.int32_tensor"):
        explain("dtype.int32")
