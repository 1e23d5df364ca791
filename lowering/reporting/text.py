"""The report as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from lowering.reporting import ablation as of_ablation
from lowering.reporting import asset as of_asset
from lowering.reporting.asset import AssetReport
from lowering.reporting.pictures import pictures_table
from lowering.reporting.result import Report
from lowering.reporting.size_ladder import ladder_notes, ladder_table
from lowering.reporting.summary import Fact, facts, sentences
from lowering.reporting.tables import Column, Table, all_tables

# Markdown is read by people: of long tables, the rows that cost most.
_ROWS = 30


def markdown(report: Report) -> str:
    """Summary and tables; of the operators the most expensive ones."""
    title = f"{report.package.name} on {report.plan.target}"
    lines = _summary(title, facts(report), sentences(report))
    tables = [*all_tables(report)]
    if report.pictures:
        tables.insert(0, pictures_table(report.pictures))
    for table in tables:
        title, rows = table.title, list(table.rows)
        if table.name == "operators" and len(rows) > _ROWS:
            price = next(i for i, c in enumerate(table.columns) if c.label.startswith("price"))
            rows = sorted(rows, key=lambda row: -row[price])[:_ROWS]
            title += f": the {_ROWS} most expensive of {len(table.rows)}"
        lines += ["", f"## {title}", "", table.note, "", *_rows(table.columns, rows)]
    if report.ablation is not None:
        chip = of_ablation.chip_of(report.ablation, report.plan.target)
        table = of_ablation.table(report.ablation, chip)
        lines += ["", f"## {table.title}", "", table.note, "", *_rows(table.columns, table.rows)]
        lines += ["", *(f"- {note}" for note in of_ablation.notes(report.ablation, chip))]
    if report.ladder is not None:
        table = ladder_table(report.ladder)
        lines += ["", f"## {table.title}", "", table.note, "", *_rows(table.columns, table.rows)]
        lines += ["", *(f"- {note}" for note in ladder_notes(report.ladder))]
    if report.plan.advice:
        lines += ["", "## What would change the placement (predicted)", ""]
        lines += [f"- {advice.sentence}" for advice in report.plan.advice]
    lines += ["", "## Notes", "", f"- {report.plan.latency_note}"]
    lines += [f"- {note}" for note in report.plan.notes]
    return "\n".join(lines)


def asset_markdown(report: AssetReport) -> str:
    """Summary and tables of a Core AI asset; of the values those that err most."""
    title = f"{report.package.name} in Core AI"
    lines = _summary(title, of_asset.facts(report), of_asset.sentences(report))
    for table in of_asset.tables(report):
        heading, rows = table.title, list(table.rows)
        if table.name == "operators" and len(rows) > _ROWS:
            error = next(i for i, c in enumerate(table.columns) if c.label == "relative L2")
            rows = sorted(rows, key=lambda row: -(row[error] or 0.0))[:_ROWS]
            heading += f": {_ROWS} of {len(table.rows)}, those with the largest error first"
        lines += ["", f"## {heading}", "", table.note, "", *_rows(table.columns, rows)]
    return "\n".join(lines)


def csv_text(table: Table) -> str:
    """One line per row, details included."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(column.label for column in table.columns)
    writer.writerows(table.rows)
    return stream.getvalue().rstrip("\n")


def _summary(title: str, figures: Sequence[Fact], lines: Sequence[str]) -> list[str]:
    found = [f"# {title}", ""]
    found += _rows(
        (Column("figure"), Column("value"), Column("note"), Column("kind")),
        [(fact.label, fact.value, fact.note, fact.kind) for fact in figures],
    )
    return [*found, "", *(f"- {line}" for line in lines)]


def _rows(columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> list[str]:
    aligned = ["--:" if column.kind == "number" else "---" for column in columns]
    lines = [_row([_escaped(column.label) for column in columns]), _row(aligned)]
    for row in rows:
        lines.append(_row([_cell(v, c) for v, c in zip(row, columns, strict=True)]))
    return lines


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(value: object, column: Column) -> str:
    if value is None:
        return "–"
    if column.kind == "number" and isinstance(value, float):
        form = f".{-column.digits - 1}e" if column.digits < 0 else f".{column.digits}f"
        return format(value, form)
    text = _escaped(str(value))
    return f"`{text}`" if column.kind == "code" and text else text


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
