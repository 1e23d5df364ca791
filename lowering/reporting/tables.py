"""The report's tables as values, from which pages, Markdown and CSV are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lowering.planner.result import OpPlan
from lowering.reporting.result import PassCount, Report
from lowering.verification import Verification


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        label: heading, with unit.
        kind: ``text``, ``code``, ``device``, ``number``, or ``detail``: a text for which there is
            only room in CSV.
        digits: of a number: ``3`` for three decimals, ``-2`` for two significant ones in
            scientific notation, ``0`` for a whole number.
    """

    label: str
    kind: str = "text"
    digits: int = 0


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: identifier.
        title: heading.
        note: what to read it with; says which figures are predicted.
        columns: its columns.
        rows: one value for each column; ``None`` where there is none.
    """

    name: str
    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]

    def without_details(self) -> Table:
        """The table as it is shown."""
        shown = [i for i, column in enumerate(self.columns) if column.kind != "detail"]
        return replace(
            self,
            columns=tuple(self.columns[i] for i in shown),
            rows=tuple(tuple(row[i] for i in shown) for row in self.rows),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "columns": [dict(vars(column)) for column in self.columns],
            "rows": [list(row) for row in self.rows],
        }


def operators(report: Report) -> Table:
    """Every operator with placement, price, memory figures and origin."""
    columns = (
        Column("#", "number"),
        Column("operator", "code"),
        Column("type", "code"),
        Column("device", "device"),
        Column("price, ms", "number", 4),
        Column("output", "code"),
        Column("padding, %", "number"),
        Column("working set, MB", "number", 2),
        Column("module", "code"),
        Column("source", "code"),
        Column("passes", "code"),
        Column("kept from the ANE by", "code"),
        Column("why", "detail"),
    )
    rows = tuple(
        (
            index,
            op.name,
            op.op_type,
            op.device,
            round(op.chosen_ms, 6),
            shape_text(op.figures.shape),
            round(op.figures.padding * 100),
            round(op.figures.working_set_bytes / 1e6, 3),
            op.source.module,
            op.source.line,
            ", ".join(op.source.passes),
            op.reason.rule if op.reason else "",
            op.reason.sentence if op.reason else "",
        )
        for index, op in enumerate(report.plan.ops)
    )
    note = "Device and price are predicted; the price is the dispatcher's, not a run time."
    return Table("operators", "Operators", note, columns, rows)


def reasons(report: Report) -> Table:
    """What keeps operators from the ANE: one row for each rule."""
    plan = report.plan
    rows = []
    for rule, count in plan.refusals.most_common():
        members = [op for op in plan.ops if op.reason is not None and op.reason.rule == rule]
        first = members[0].reason
        assert first is not None  # the rule was counted from it
        rows.append((count, rule, first.sentence, first.hint, _places(members), first.confidence))
    columns = (
        Column("operators", "number"),
        Column("rule", "code"),
        Column("why"),
        Column("next step"),
        Column("where", "code"),
        Column("confidence", "number", 2),
    )
    note = "Predicted by rules read from the dispatcher; confidence is that of the rule."
    return Table("reasons", "Not on the Neural Engine, and why", note, columns, tuple(rows))


def passes_table(passes: Sequence[PassCount], repeat: str) -> Table:
    """What each pass did; ``repeat``: the command that tells why some declined."""
    rows = tuple(
        (
            entry.name,
            entry.rewrites,
            entry.declined,
            "; ".join([*(f"{places} × {text}" for text, places in entry.reasons), *entry.notes]),
        )
        for entry in passes
    )
    columns = (
        Column("pass", "code"),
        Column("rewrites", "number"),
        Column("declined", "number"),
        Column("why it declined"),
    )
    note = "In the order they ran."
    if any(entry.declined for entry in passes) and not any(entry.reasons for entry in passes):
        note += f" The reasons need the original: {repeat}."
    return Table("passes", "Passes", note, columns, rows)


def outputs_table(outputs: Verification | None, where: str) -> Table:
    """Each output and state beside the original's, as run in ``where``."""
    found = () if outputs is None else outputs.outputs
    rows = tuple(
        (o.name, o.rel_l2, o.max_abs, o.yardstick, o.threshold, "ok" if o.passed else "differs")
        for o in found
    )
    columns = (
        Column("output", "code"),
        Column("relative L2", "number", -2),
        Column("largest |Δ|", "number", -2),
        Column("torch in half precision", "number", -2),
        Column("allowed", "number", -2),
        Column("verdict"),
    )
    note = f"Measured in {where}, against the original in float32."
    return Table("outputs", "Outputs", note, columns, rows)


def all_tables(report: Report) -> tuple[Table, ...]:
    """The tables that have rows, in the order of the report."""
    accuracy = report.accuracy
    made = (
        reasons(report),
        outputs_table(None if accuracy is None else accuracy.outputs, "the interpreter"),
        passes_table(report.package.passes, "ane-passes report PACKAGE MODEL"),
        operators(report),
    )
    return tuple(table.without_details() for table in made if table.rows)


def shape_text(shape: Sequence[Any]) -> str:
    """``1×768×1×128``; ``scalar`` without axes, ``?`` for sizes that are not fixed."""
    return "×".join("?" if size == -1 else str(size) for size in shape) or "scalar"


def _places(ops: Sequence[OpPlan], most: int = 3) -> str:
    places = list(dict.fromkeys(op.source.line or op.source.module or op.name for op in ops))
    more = f"; {len(places) - most} more" if len(places) > most else ""
    return "; ".join(places[:most]) + more
