"""What a rule of preflight is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntEnum


class Severity(IntEnum):
    """How much a finding matters; larger is worse, and gates compare."""

    NOTE = 0
    SLOW = 1
    OFF_ANE = 2
    WRONG = 3
    FATAL = 4

    @property
    def label(self) -> str:
        """As tables, JSON and ``--fail-on`` spell it."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True)
class Rule:
    """One kind of obstacle.

    Attributes:
        id: stable name, for ``ane-passes explain`` and for scripts.
        severity: of a finding, where the finding does not say otherwise.
        cause: what is the matter, in sentences.
        example: a line of a model that shows it, ``""`` where no line does.
        automatic: what is done about it without asking, ``""`` for nothing.
        remedy: what the user can do, ``""`` for nothing.
        evidence: what the rule rests on, where it is a prediction.
    """

    id: str
    severity: Severity
    cause: str
    example: str = ""
    automatic: str = ""
    remedy: str = ""
    evidence: str = ""

    def to_json(self) -> dict[str, str]:
        """The fields, the severity by its label."""
        return {**asdict(self), "severity": self.severity.label}
