"""Every rule there is to explain: preflight's own, and the planner's reasons."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from frontend.errors import AnePassesError
from lowering.checking.rules import RULES, Rule, Severity
from lowering.planner.capabilities import Reason
from lowering.planner.capabilities import rules as capability_rules
from lowering.planner.doubts import reasons as doubt_reasons

# Reasons of the planner that are no property of an operator.
_SEGMENT = (
    Rule(
        "segment.price",
        Severity.OFF_ANE,
        "The ANE can run this stretch of operators, but Core ML's dispatcher leaves it on the CPU: "
        "going there and back costs more than it saves, by the dispatcher's own prices.",
        "nn.Linear(4, 4)  # as a whole model",
        remedy="Nothing, for a tiny model; else bring the operators around it to the ANE.",
        evidence="the segmentation reproduces 294 dumped programs of an M4",
    ),
)


class RuleError(AnePassesError):
    """There is no rule of that name."""


@dataclass(frozen=True)
class Explained:
    """A rule and where it comes from.

    Attributes:
        rule: the rule.
        kind: ``"preflight"`` for what is found in the model, ``"placement"`` for a *predicted*
            reason not to run on the ANE.
    """

    rule: Rule
    kind: str

    def to_json(self) -> dict[str, str]:
        """Plain values."""
        return {"kind": self.kind, **self.rule.to_json()}


def all_rules() -> tuple[Explained, ...]:
    """Preflight's rules, worst first, then the planner's, in the order they are tried."""
    own = sorted(RULES.values(), key=lambda rule: -rule.severity)
    placement = [_of_placement(entry.reason, Severity.OFF_ANE) for entry in capability_rules()]
    placement += [_of_placement(reason, Severity.NOTE) for reason in doubt_reasons()]
    return (
        *(Explained(rule, "preflight") for rule in own),
        *(Explained(rule, "placement") for rule in (*placement, *_SEGMENT)),
    )


def _of_placement(reason: Reason, severity: Severity) -> Rule:
    return Rule(
        reason.rule,
        severity,
        _sentence(reason.sentence),
        remedy=_sentence(reason.hint),
        evidence=f"{reason.evidence} (confidence {reason.confidence:.0%})",
    )


def explain(rule_id: str) -> Explained:
    """The rule named ``rule_id``.

    Raises:
        RuleError: there is none; the message has the closest names.
    """
    known = {entry.rule.id: entry for entry in all_rules()}
    if rule_id in known:
        return known[rule_id]
    close = difflib.get_close_matches(rule_id, known, n=3, cutoff=0.4)
    raise RuleError(
        f"there is no rule {rule_id!r}",
        expected=", ".join(close) or None,
        hint="`ane-passes explain` lists all of them",
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""
