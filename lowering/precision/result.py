"""What was found of the ranges of a program's values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from frontend.source import Source
from lowering.support.finite import finite


@dataclass(frozen=True)
class ValueRange:
    """What one value of the lowered program was on all calls.

    Attributes:
        value: its name in the program.
        op: MIL type of the operator that computes it.
        source: the user's module and line.
        low: smallest finite number, exactly computed.
        high: largest finite number.
        smallest: smallest magnitude above zero; 0.0 where all are zero.
        is_half: it is float16 in the package.
        error: largest relative L2 error that float16 gives it, with all before it in float16.
    """

    value: str
    op: str
    source: Source
    low: float
    high: float
    smallest: float
    is_half: bool
    error: float

    @property
    def peak(self) -> float:
        """The largest finite magnitude."""
        return max(abs(self.low), abs(self.high))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        place = {"module": self.source.module, "line": self.source.line}
        return {**asdict(self), "source": place, "error": finite(self.error)}


@dataclass(frozen=True)
class RangeFinding:
    """A value that float16 harms.

    Attributes:
        rule: of ``ane-passes explain``.
        value: its name in the lowered program.
        op: MIL type of the operator that computes it.
        source: the user's module and line.
        low: smallest number of the value on the call that showed it.
        high: largest number.
        error: relative L2 error that is lost there; infinite for what becomes infinite or NaN.
        message: what is the matter, one sentence without a full stop.
        remedy: what helps.
        call: the inputs that showed it.
        effect: the largest relative L2 error of an output on such a call, with all that float16
            does; of what hardware alone may do 0.0.
    """

    rule: str
    value: str
    op: str
    source: Source
    low: float
    high: float
    error: float
    message: str
    remedy: str
    call: str
    effect: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        place = {"module": self.source.module, "line": self.source.line}
        errors = {"error": finite(self.error), "effect": finite(self.effect)}
        return {**asdict(self), "source": place, **errors}


@dataclass(frozen=True)
class Ranges:
    """The values of a program and what float16 does to them.

    It is true when nothing was found.

    Attributes:
        name: of the model.
        values: every float value of the lowered program, in program order.
        findings: in program order; of equal ones at one line the worst.
        calls: on what it was computed, in words.
        notes: what could not be tried.
        outputs: relative L2 error that is expected of each output of the float16 package, the
            largest of all calls.
    """

    name: str
    values: tuple[ValueRange, ...]
    findings: tuple[RangeFinding, ...]
    calls: tuple[str, ...]
    notes: tuple[str, ...] = ()
    outputs: dict[str, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return not self.findings

    def __str__(self) -> str:
        return "\n".join(_lines(self.findings)) or f"{self.name}: float16 harms no value"

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "model": self.name,
            "calls": list(self.calls),
            "findings": [finding.to_json() for finding in self.findings],
            "values": [value.to_json() for value in self.values],
            "outputs": finite(self.outputs),
            "notes": list(self.notes),
        }


def _lines(findings: Iterable[RangeFinding]) -> Iterable[str]:
    for finding in findings:
        yield f"[{finding.rule}] {finding.op} {finding.value}: {finding.message}"
        yield f"    at {finding.source}"
        yield f"    on {finding.call}; outputs are off by {finding.effect:.1e}"
        yield f"    next step: {finding.remedy}"
