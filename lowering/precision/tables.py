"""Ranges as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from lowering.precision.result import RangeFinding, Ranges, ValueRange


def ranges_text(found: Ranges, top: int) -> Iterator[object]:
    """Everything a terminal shows of ``found``: rich renderables and lines, in order.

    Args:
        found: the ranges.
        top: how many values to list, those with the largest errors.
    """
    if found.findings:
        yield findings_table(found.findings)
        yield ""
    yield escape(verdict(found))
    if found.values and top:
        worst = sorted(found.values, key=lambda value: -value.error)[:top]
        yield f"\nThe {len(worst)} values that float16 keeps worst"
        yield values_table(worst)
    yield from (escape(f"tried on {call}") for call in found.calls)
    yield from (escape(f"note: {note}") for note in found.notes)


def verdict(found: Ranges) -> str:
    """One line: how many values, how many findings."""
    count = len(found.findings)
    what = "nothing that float16 harms" if not count else f"{count} places that float16 harms"
    return f"{found.name}: {what}, among {len(found.values)} values"


def findings_table(findings: tuple[RangeFinding, ...]) -> Table:
    """One row for each finding."""
    table = Table(box=None, pad_edge=False)
    for heading in ("rule", "operator", "range", "what and where", "next step"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        table.add_row(
            finding.rule,
            escape(f"{finding.op}\n{finding.value}"),
            f"{finding.low:.3g} to\n{finding.high:.3g}",
            escape(
                f"{finding.message}\nat {finding.source}\non {finding.call}; "
                f"outputs are off by {finding.effect:.1e}"
            ),
            escape(finding.remedy),
        )
    return table


def values_table(values: list[ValueRange]) -> Table:
    """One row for each value."""
    table = Table(box=None, pad_edge=False)
    for heading in ("value", "operator", "smallest", "largest", "nearest to 0", "error", "source"):
        numeric = heading in ("smallest", "largest", "nearest to 0", "error")
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for value in values:
        table.add_row(
            escape(value.value),
            value.op + ("" if value.is_half else " (float32)"),
            f"{value.low:.3g}",
            f"{value.high:.3g}",
            f"{value.smallest:.2g}",
            f"{value.error:.1e}",
            escape(str(value.source)),
        )
    return table
