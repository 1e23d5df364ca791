"""What a ladder found, as values, JSON and a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from lowering.ablation.result import Predicted
from lowering.support.finite import finite

# What was read from JSON.
Plain: TypeAlias = Mapping[str, Any]
# A level is no knee where it lies nearer to the line than this, of the height of the whole
# (*assumed*).
_DEEP = 0.1


@dataclass(frozen=True)
class Level:
    """One rung of a package.

    Attributes:
        name: of the rung.
        bytes: of the package.
        error: relative L2 error against the model: root mean square over the inputs, of the output
            where it is largest.
        metric: how far both agree as the task sees it, mean over the inputs; ``None`` without one.
        predicted: where it would run, its price and its time.
        warnings: what is known against the rung.
        refused: why there is no such package, ``""`` where there is one.
    """

    name: str
    bytes: int = 0
    error: float = 0.0
    metric: float | None = None
    predicted: Predicted | None = None
    warnings: tuple[str, ...] = ()
    refused: str = ""

    def to_json(self) -> dict[str, object]:
        """As a dictionary of plain values; infinity and NaN as text."""
        return {
            "name": self.name,
            "bytes": self.bytes,
            "error": finite(self.error),
            "metric": None if self.metric is None else finite(self.metric),
            "predicted": None if self.predicted is None else self.predicted.to_json(),
            "warnings": list(self.warnings),
            "refused": self.refused,
        }

    @classmethod
    def from_json(cls, entry: Plain) -> Level:
        """What :meth:`to_json` gave."""
        metric, predicted = entry["metric"], entry["predicted"]
        return cls(
            str(entry["name"]),
            int(entry["bytes"]),
            float(entry["error"]),
            None if metric is None else float(metric),
            None if predicted is None else Predicted.from_json(predicted),
            tuple(map(str, entry["warnings"])),
            str(entry["refused"]),
        )


@dataclass(frozen=True)
class Ladder:
    """Every rung of a package, beside the package as it was.

    Attributes:
        package: its path.
        chip: that prices and times are predicted for.
        metric: its name, ``""`` without one.
        levels: the package as it was, then the rungs in the order they were asked for.
        chosen: name of the level within the budget, ``""`` without one.
        written: path of its package, ``None`` where it was not to be written.
        budget: in words.
    """

    package: str
    chip: str
    metric: str
    levels: tuple[Level, ...]
    chosen: str = ""
    written: str | None = None
    budget: str = ""

    @property
    def knee(self) -> str:
        """Name of the level beyond which bytes become dear, ``""`` where there is none.

        Of the levels that no other betters in both size and error, the one farthest below the line
        from the largest to the smallest, with both axes from 0 to 1.
        """
        front = frontier(self.levels)
        if len(front) < 3:
            return ""
        first, last = front[0], front[-1]
        width, height = first.bytes - last.bytes, last.error - first.error
        depths = [
            (first.bytes - level.bytes) / width - (level.error - first.error) / height
            for level in front
        ]
        deepest = max(depths)
        return front[depths.index(deepest)].name if deepest > _DEEP else ""

    def with_choice(self, chosen: str, written: str | None, budget: str) -> Ladder:
        """The same with what a budget chose."""
        return replace(self, chosen=chosen, written=written, budget=budget)

    def to_json(self) -> dict[str, object]:
        """As a dictionary of plain values."""
        return {
            "package": self.package,
            "chip": self.chip,
            "metric": self.metric,
            "knee": self.knee,
            "budget": self.budget,
            "chosen": self.chosen,
            "written": self.written,
            "levels": [level.to_json() for level in self.levels],
        }

    @classmethod
    def from_json(cls, entry: Plain) -> Ladder:
        """What :meth:`to_json` gave; the knee is found anew.

        Raises:
            ValueError: it has no levels.
        """
        levels = tuple(map(Level.from_json, entry["levels"]))
        if not levels or levels[0].predicted is None:
            raise ValueError("no package as it was")
        return cls(
            str(entry["package"]),
            str(entry["chip"]),
            str(entry["metric"]),
            levels,
            str(entry["chosen"]),
            None if entry["written"] is None else str(entry["written"]),
            str(entry["budget"]),
        )

    def rows(self) -> list[tuple[str, ...]]:
        """Of each level: name, MB, times smaller, error, metric, price, latency, ANE, marks."""
        whole = self.levels[0].bytes
        return [
            (
                level.name,
                *(
                    ("",) * 7
                    if level.predicted is None
                    else (
                        f"{level.bytes / 1e6:.3g}",
                        f"{whole / level.bytes:.2f}",
                        f"{level.error:.1e}",
                        "" if level.metric is None else f"{level.metric:.4f}",
                        f"{level.predicted.dispatch_ms:.3g}",
                        level.predicted.latency_text,
                        f"{level.predicted.ane_cost:.0%}",
                    )
                ),
                self.marks(level),
            )
            for level in self.levels
        ]

    def marks(self, level: Level) -> str:
        """What is special about a level, in words; why there is none where it was refused."""
        marks = ["knee"] if level.name == self.knee else []
        marks += ["chosen"] if level.name == self.chosen else []
        return level.refused or ", ".join(marks)

    def __rich__(self) -> RenderableType:
        """The table, and how to read it."""
        table = Table(box=None, pad_edge=False)
        table.add_column("rung")
        for title in ("MB", "× smaller", "error", self.metric or "metric", "price, ms"):
            table.add_column(title, justify="right")
        for title in ("latency, ms", "on the ANE"):
            table.add_column(title, justify="right")
        table.add_column("")
        for row in self.rows():
            table.add_row(*map(escape, row))
        return Group(table, *(escape(line) for line in self._sentences()))

    def _sentences(self) -> list[str]:
        lines = [
            f"note: {level.name}: {warning}" for level in self.levels for warning in level.warnings
        ]
        lines.append(
            f"Errors are relative L2 against the model, in the interpreter; price, latency and "
            f"placement are predicted, for {self.chip}."
        )
        if self.chosen:
            lines.append(f"{self.budget}: {self.chosen}")
        if self.written:
            lines.append(f"saved {self.written}")
        return lines


def frontier(levels: Sequence[Level]) -> list[Level]:
    """The levels that no other is both smaller and more exact than, from the largest on."""
    real = sorted(
        (level for level in levels if not level.refused and math.isfinite(level.error)),
        key=lambda level: (level.bytes, level.error),
    )
    front: list[Level] = []
    best = float("inf")
    for level in real:  # the smallest first
        if level.error < best:
            front.append(level)
            best = level.error
    return front[::-1]
