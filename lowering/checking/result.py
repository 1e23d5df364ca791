"""What preflight says: findings, and all of them together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from frontend.source import Source
from lowering.checking.rules import RULES, Rule, Severity
from lowering.planner.capabilities import Reason


@dataclass(frozen=True)
class Finding:
    """One obstacle, however many places it has.

    Attributes:
        rule: id of the rule, see ``ane-passes explain``.
        severity: how much it matters here.
        op: torch's or MIL's name of the operator, ``""`` where none is meant.
        message: what was found, one sentence without a full stop.
        count: how many times it occurs.
        places: where, as far as it is known, in program order.
        automatic: what is done about it, ``""`` for nothing.
        remedy: what the user can do, ``""`` for nothing.
    """

    rule: str
    severity: Severity
    op: str
    message: str
    count: int = 1
    places: tuple[Source, ...] = ()
    automatic: str = ""
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values; equal places are listed once."""
        places = dict.fromkeys(self.places)
        return {
            "rule": self.rule,
            "severity": self.severity.label,
            "op": self.op,
            "count": self.count,
            "message": self.message,
            "places": [{"module": place.module, "line": place.line} for place in places],
            "automatic": self.automatic,
            "remedy": self.remedy,
        }


@dataclass
class Findings:
    """Collects findings; equal ones at several places become one."""

    _found: dict[tuple[str, str, str, Severity], Finding] = field(default_factory=dict)

    def add(
        self,
        rule: str | Rule,
        message: str,
        *,
        op: str = "",
        place: Source | None = None,
        severity: Severity | None = None,
        automatic: str | None = None,
        remedy: str | None = None,
    ) -> None:
        """One occurrence; what is not given comes from the rule."""
        kind = RULES[rule] if isinstance(rule, str) else rule
        self._take(
            Finding(
                rule=kind.id,
                severity=kind.severity if severity is None else severity,
                op=op,
                message=message,
                count=1,
                places=(place,) if place is not None and place != Source() else (),
                automatic=kind.automatic if automatic is None else automatic,
                remedy=kind.remedy if remedy is None else remedy,
            )
        )

    def has(self, rule: str, severity: Severity = Severity.NOTE) -> bool:
        """A finding of ``rule`` as bad as ``severity`` is among them."""
        return any(f.rule == rule and f.severity >= severity for f in self._found.values())

    def places(self, rule: str) -> frozenset[Source]:
        """Where ``rule`` was found."""
        return frozenset(
            place for found in self._found.values() if found.rule == rule for place in found.places
        )

    def take(self, others: Findings) -> None:
        """Adds what ``others`` found."""
        for finding in others._found.values():
            self._take(finding)

    def all(self) -> tuple[Finding, ...]:
        """Worst first; within a severity in the order of discovery."""
        return tuple(sorted(self._found.values(), key=lambda finding: -finding.severity))

    def _take(self, finding: Finding) -> None:
        key = (finding.rule, finding.op, finding.message, finding.severity)
        known = self._found.get(key)
        if known is not None:
            finding = replace(
                known, count=known.count + finding.count, places=known.places + finding.places
            )
        self._found[key] = finding


@dataclass(frozen=True)
class PlacementSummary:
    """What the planner predicts for the parts that can be lowered.

    Attributes:
        target: chip.
        ops: MIL operators.
        on_ane: of these, on the ANE.
        complete: nothing had to be left out to predict it.
        reasons: the planner's reasons by rule id, for ``ane-passes explain``.
    """

    target: str
    ops: int
    on_ane: int
    complete: bool
    reasons: Mapping[str, Reason] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values, labelled as predicted."""
        return {
            "kind": "predicted",
            "target": self.target,
            "ops": self.ops,
            "on_ane": self.on_ane,
            "complete": self.complete,
        }


@dataclass(frozen=True)
class Preflight:
    """Everything that stands between a model and a package that runs on the ANE.

    Attributes:
        name: the model.
        findings: obstacles, worst first.
        captured: the model could be captured; without, findings come from one eager run.
        placement: where operators are *predicted* to run, ``None`` when it was not asked for or
            nothing could be lowered.
        notes: what the findings rest on, and what could not be looked at.
    """

    name: str
    findings: tuple[Finding, ...]
    captured: bool
    placement: PlacementSummary | None = None
    notes: tuple[str, ...] = ()

    def at_least(self, severity: Severity) -> tuple[Finding, ...]:
        """Findings as bad as ``severity`` or worse."""
        return tuple(finding for finding in self.findings if finding.severity >= severity)

    @property
    def convertible(self) -> bool:
        """Nothing that was found prevents a package."""
        return not self.at_least(Severity.FATAL)

    def counts(self) -> dict[str, int]:
        """Findings by severity label, worst first."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity.label: found[severity] for severity in sorted(found, reverse=True)}

    def __bool__(self) -> bool:
        return self.convertible

    def __str__(self) -> str:
        return "\n".join(_lines(self.findings)) or f"{self.name}: nothing is in the way"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "model": self.name,
            "captured": self.captured,
            "convertible": self.convertible,
            "counts": self.counts(),
            "findings": [finding.to_json() for finding in self.findings],
            "placement": None if self.placement is None else self.placement.to_json(),
            "notes": list(self.notes),
        }


def _lines(findings: Iterable[Finding]) -> Iterable[str]:
    for finding in findings:
        op = f"{finding.op} × {finding.count}: " if finding.op else ""
        yield f"{finding.severity.label} [{finding.rule}] {op}{finding.message}"
        yield from (f"    at {place}" for place in list(dict.fromkeys(finding.places))[:4])
