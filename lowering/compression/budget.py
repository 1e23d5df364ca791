"""What a ladder's package may cost, and the rung that is chosen for it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from frontend.errors import InputError
from lowering.compression.ladder_result import Level

Measure: TypeAlias = Literal["bytes", "error", "metric"]
_UNITS = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?(?:e\d+)?)\s*([a-z]*)", re.IGNORECASE)
_OF_VALUES = re.compile(r"(error|metric)\s*=\s*(\d*\.?\d+(?:e[-+]?\d+)?)", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """A limit.

    Attributes:
        measure: ``bytes`` of the package, at most; relative L2 ``error``, at most; ``metric`` of
            the task, at least.
        limit: the number.
    """

    measure: Measure
    limit: float

    def __str__(self) -> str:
        return _text(self.measure, self.limit)

    def holds(self, level: Level) -> bool:
        """Whether a level is within it."""
        value = self._value(level)
        return value >= self.limit if self.measure == "metric" else value <= self.limit

    def choose(self, levels: Sequence[Level]) -> Level:
        """Within a limit of bytes the most exact level, within one of exactness the smallest.

        Raises:
            InputError: no level is within it; the message says what can be reached.
        """
        tried = [level for level in levels if not level.refused]
        if self.measure == "metric" and any(level.metric is None for level in tried):
            raise InputError(
                "a budget of the metric needs a metric",
                found=str(self),
                hint="name one, such as --metric cosine",
            )
        within = [level for level in tried if self.holds(level)]
        if not within:
            sign = -1 if self.measure == "metric" else 1
            best = min(tried, key=lambda level: sign * self._value(level))
            what = "largest" if self.measure == "metric" else "smallest"
            raise InputError(
                "no rung is within the budget",
                expected=f"{'at least' if sign < 0 else 'at most'} {self}",
                found=f"the {what} that can be reached is "
                f"{_text(self.measure, self._value(best))}, by {best.name}",
                hint="allow that much, or add smaller or more exact rungs",
            )
        if self.measure == "bytes":
            return min(within, key=lambda level: (level.error, level.bytes))
        return min(within, key=lambda level: (level.bytes, level.error))

    def _value(self, level: Level) -> float:
        value = getattr(level, self.measure)
        return math.nan if value is None else float(value)


def budget_of(budget: str | int | Budget) -> Budget:
    """The budget in these words: ``12MB`` or a number of bytes, ``error=0.05``, ``metric=0.99``.

    Raises:
        InputError: they are others, or not positive.
    """
    if isinstance(budget, Budget):
        return budget
    found: Budget | None = None
    if isinstance(budget, int | float):
        found = Budget("bytes", float(budget))
    elif match := _OF_VALUES.fullmatch(budget.strip()):
        found = Budget("error" if match[1].lower() == "error" else "metric", float(match[2]))
    elif (match := _SIZE.fullmatch(budget.strip())) and match[2].lower() in _UNITS:
        found = Budget("bytes", float(match[1]) * _UNITS[match[2].lower()])
    if found is None or not found.limit > 0:
        raise InputError(
            "this is no budget",
            expected="a size such as 12MB, or error=0.05, or metric=0.99",
            found=repr(budget),
            hint="write one of these",
        )
    return found


def _text(measure: Measure, value: float) -> str:
    return f"{value / 1e6:.4g} MB" if measure == "bytes" else f"{measure} {value:.3g}"
