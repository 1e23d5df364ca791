"""What the checklist says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

Status = Literal["pass", "fail", "skip"]
_COLOURS: dict[Status, str] = {"pass": "green", "fail": "red", "skip": "yellow"}


@dataclass(frozen=True)
class Row:
    """One line of the checklist.

    Attributes:
        name: a short name.
        status: ``skip`` where it could not be looked at here.
        evidence: what was found, or why nothing was looked at.
        command: what looks at it, for every ``skip``, and the next step of a ``fail``.
    """

    name: str
    status: Status
    evidence: str
    command: str = ""

    def to_json(self) -> dict[str, str]:
        """Plain values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Checklist:
    """Every line; true where none fails.

    Attributes:
        name: of the model.
        rows: in the order of the list.
    """

    name: str
    rows: tuple[Row, ...]

    def __bool__(self) -> bool:
        return not self.of("fail")

    def of(self, status: Status) -> list[Row]:
        """The lines of one status."""
        return [row for row in self.rows if row.status == status]

    def to_json(self) -> dict[str, object]:
        """Plain values, with how many there are of each status."""
        return {
            "model": self.name,
            "passed": bool(self),
            "counts": {status: len(self.of(status)) for status in _COLOURS},
            "rows": [row.to_json() for row in self.rows],
        }

    def __rich__(self) -> RenderableType:
        """A table, and the commands under it."""
        table = Table("line", "", "evidence")
        for row in self.rows:
            table.add_row(
                row.name, f"[{_COLOURS[row.status]}]{row.status}[/]", escape(row.evidence)
            )
        counts = ", ".join(f"{len(self.of(status))} {status}" for status in _COLOURS)
        return Group(table, *_commands(self.rows), f"{escape(self.name)}: {counts}")


def _commands(rows: Iterable[Row]) -> list[str]:
    return [escape(f"{row.name}: {row.command}") for row in rows if row.command]
