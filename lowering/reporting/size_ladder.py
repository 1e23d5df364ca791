"""The ladder of sizes in a report: its table, its charts and what they come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lowering.compression.ladder_result import Ladder, Level, frontier
from lowering.reporting.tables import Column, Table

Spec = dict[str, Any]

# Errors below this are drawn there: a package that is exact has none on a scale of powers.
_LEAST_ERROR = 1e-6
_HEIGHT = 260


@dataclass(frozen=True)
class LadderPart:
    """What a page shows of a ladder.

    Attributes:
        specs: its charts by name.
        table: one row for each rung.
        notes: sentences.
    """

    specs: dict[str, Spec]
    table: Table
    notes: list[str]

    @classmethod
    def of(cls, ladder: Ladder) -> LadderPart:
        """The part of this ladder."""
        return cls(ladder_charts(ladder), ladder_table(ladder), ladder_notes(ladder))


def ladder_table(ladder: Ladder) -> Table:
    """One row for each rung, those that were refused included."""
    columns = (
        Column("rung", "code"),
        Column("MB", "number", 2),
        Column("times smaller", "number", 2),
        Column("error", "number", -2),
        Column(ladder.metric or "metric", "number", 4),
        Column("price, ms", "number", 3),
        Column("time, ms", "number", 3),
        Column("on the ANE, %", "number", 1),
        Column("remark"),
    )
    note = (
        "Errors (relative L2) and the metric are measured in the interpreter against the model; "
        f"price, time and placement are predicted for {ladder.chip}."
    )
    return Table("ladder", "Ladder of sizes", note, columns, tuple(_rows(ladder)))


def ladder_notes(ladder: Ladder) -> list[str]:
    """What the ladder comes to, in sentences."""
    by_name = {level.name: level for level in ladder.levels}
    whole = ladder.levels[0]
    lines = []
    if ladder.knee:
        knee = by_name[ladder.knee]
        lines.append(
            f"the knee is {knee.name}: {whole.bytes / knee.bytes:.2f} times smaller at an error of "
            f"{knee.error:.1e}; beyond it bytes cost more error"
        )
    if ladder.chosen:
        lines.append(f"{ladder.budget}: {ladder.chosen}")
    lines += [f"{level.name}: {text}" for level in ladder.levels for text in level.warnings]
    return lines


def ladder_charts(ladder: Ladder) -> dict[str, Spec]:
    """Error over size, and where there is one the task's metric; circles are as large as prices."""
    rows = [_point(ladder, level) for level in ladder.levels if level.predicted is not None]
    rows = [row for row in rows if row["drawn"] is not None]
    if not rows:
        return {}
    error: Spec = {
        "field": "drawn",
        "type": "quantitative",
        "title": "relative L2 error",
        "scale": {"type": "log", "nice": False, "padding": 18},
        "axis": {"format": ".0e", "tickCount": 5},
    }
    found = {"ladder-error": _chart(rows, error, _front(ladder))}
    if ladder.metric and all(row["metric"] is not None for row in rows):
        metric: Spec = {
            "field": "metric",
            "type": "quantitative",
            "title": ladder.metric,
            "scale": {"zero": False, "padding": 18},
        }
        found["ladder-metric"] = _chart(rows, metric, ())
    return found


def _rows(ladder: Ladder) -> list[tuple[object, ...]]:
    whole = ladder.levels[0].bytes
    return [
        (level.name, *[None] * 7, level.refused)
        if level.predicted is None
        else (
            level.name,
            level.bytes / 1e6,
            whole / level.bytes,
            level.error,
            level.metric,
            level.predicted.dispatch_ms,
            level.predicted.latency_ms,
            level.predicted.ane_cost * 100,
            ladder.marks(level),
        )
        for level in ladder.levels
    ]


def _point(ladder: Ladder, level: Level) -> Spec:
    assert level.predicted is not None  # refused ones were left out
    return {
        "rung": level.name,
        "mb": level.bytes / 1e6,
        "times": ladder.levels[0].bytes / level.bytes,
        "error": level.error,
        "drawn": max(level.error, _LEAST_ERROR) if math.isfinite(level.error) else None,
        "metric": level.metric,
        "price": level.predicted.dispatch_ms,
        "ms": level.predicted.latency_ms,
        "ane": level.predicted.ane_cost,
        "knee": level.name == ladder.knee,
    }


def _front(ladder: Ladder) -> Sequence[Spec]:
    return [
        {"mb": level.bytes / 1e6, "drawn": max(level.error, _LEAST_ERROR)}
        for level in frontier(ladder.levels)
    ]


def _chart(rows: list[Spec], y: Spec, front: Sequence[Spec]) -> Spec:
    x: Spec = {
        "field": "mb",
        "type": "quantitative",
        "title": "size, MB",
        "scale": {"zero": False, "padding": 30},
    }
    tooltip = [
        {"field": "rung"},
        {"field": "mb", "title": "MB", "format": ".3f"},
        {"field": "times", "title": "times smaller", "format": ".2f"},
        {"field": "error", "title": "relative L2", "format": ".2e"},
        {"field": "metric"},
        {"field": "price", "title": "price, ms (predicted)", "format": ".4f"},
        {"field": "ms", "title": "time, ms (predicted)", "format": ".4f"},
        {"field": "ane", "title": "on the ANE (predicted)", "format": ".0%"},
    ]
    size = {
        "field": "price",
        "type": "quantitative",
        "title": "price, ms (predicted)",
        "scale": {"type": "sqrt", "range": [60, 420]},
        "legend": {"symbolFillColor": "var(--ane)", "tickCount": 3},
    }
    colour = {
        "condition": {"test": "datum.knee", "value": "var(--accent)"},
        "value": "var(--ane)",
    }
    knee = [row for row in rows if row["knee"]]
    layers: list[Spec] = [
        {
            "data": {"values": list(front)},
            "mark": {"type": "line", "color": "var(--muted)", "strokeDash": [4, 3]},
            "encoding": {"x": x, "y": y, "order": {"field": "mb", "type": "quantitative"}},
        },
        {
            "mark": {"type": "point", "filled": True, "opacity": 0.85},
            "encoding": {"x": x, "y": y, "size": size, "color": colour, "tooltip": tooltip},
        },
        {
            "mark": {"type": "text", "dy": -14, "fontSize": 11, "color": "var(--text)"},
            "encoding": {"x": x, "y": y, "text": {"field": "rung"}},
        },
        {
            "data": {"values": knee},
            "name": "knee",
            "mark": {"type": "text", "dy": 20, "fontSize": 11, "color": "var(--accent)"},
            "encoding": {"x": x, "y": y, "text": {"value": "knee"}},
        },
    ]
    return {
        "data": {"values": rows},
        "width": "container",
        "height": _HEIGHT,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "layer": [layer for layer in layers if layer.get("data", {"values": rows})["values"]],
    }
