"""Several ablations side by side: which change of the passes matters to which model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lowering.ablation.result import Ablation
from lowering.reporting.ablation import SAME_PRICE, chip_of
from lowering.reporting.tables import Column, Table

Spec = dict[str, Any]

_KINDS = ("original", "without", "form")
_ROW = 26
# A price that differs by this factor has the full colour.
_FULL_COLOUR = 3.0


def cells(ablations: Sequence[Ablation], chip: str) -> list[dict[str, Any]]:
    """One entry per model and change that gives some model a program of its own."""
    found = []
    matter = set()
    for ablation in ablations:
        shown = chip_of(ablation, chip)
        for variant in ablation.variants:
            if variant.kind not in _KINDS or variant.figures is None:
                continue
            difference = ablation.difference(variant, shown)
            same = ablation.baseline in (variant.name, variant.same_as)
            if variant.same_as is None:
                matter.add(variant.name)
            found.append(
                {
                    "model": ablation.model,
                    "variant": variant.name,
                    "same": same,
                    "price": 1.0 if same else difference.price_ratio,
                    "time": 1.0 if same else difference.latency_ratio,
                    "verdict": difference.verdict,
                }
            )
    return [cell for cell in found if cell["variant"] in matter]


def overview(ablations: Sequence[Ablation], chip: str) -> Spec:
    """Changes by models; the colour says whether the dispatcher's price falls or rises."""
    rows = [{**cell, **_look(cell)} for cell in cells(ablations, chip)]
    order = list(dict.fromkeys(row["variant"] for row in rows))
    models = [ablation.model for ablation in ablations]
    x = {
        "field": "model",
        "type": "nominal",
        "sort": models,
        "title": None,
        "axis": {"orient": "top", "labelAngle": 0, "domain": False, "ticks": False},
    }
    y = {
        "field": "variant",
        "type": "nominal",
        "sort": order,
        "title": None,
        "axis": {"labelLimit": 190, "domain": False, "ticks": False},
    }
    tooltip = [
        {"field": "model"},
        {"field": "variant"},
        {"field": "price", "title": "price over the default's (predicted)", "format": ".3f"},
        {"field": "time", "title": "time over the default's (predicted)", "format": ".3f"},
        {"field": "verdict", "title": "time beside the default"},
    ]
    colour = {
        "field": "direction",
        "type": "nominal",
        "legend": None,
        "scale": {
            "domain": ["dearer", "cheaper", "same"],
            "range": ["var(--bad)", "var(--good)", "var(--line)"],
        },
    }
    strength = {
        "field": "strength",
        "type": "quantitative",
        "legend": None,
        "scale": {"domain": [0, 1], "range": [0.12, 0.75]},
    }
    return {
        "data": {"values": rows},
        "width": "container",
        "height": _ROW * len(order),
        "autosize": {"type": "fit-x", "contains": "padding"},
        "encoding": {"x": x, "y": y, "tooltip": tooltip},
        "layer": [
            {
                "mark": {"type": "rect", "stroke": "var(--card)", "strokeWidth": 3},
                "encoding": {"color": colour, "opacity": strength},
            },
            {
                "mark": {"type": "text", "fontSize": 12, "color": "var(--text)"},
                "encoding": {"text": {"field": "text"}},
            },
        ],
    }


def _look(cell: dict[str, Any]) -> dict[str, Any]:
    ratio = cell["price"]
    if cell["same"] or ratio is None:
        return {"direction": "same", "strength": 0.0, "text": "·" if cell["same"] else "?"}
    if abs(ratio - 1) < SAME_PRICE:
        return {"direction": "same", "strength": 0.0, "text": "1.00×"}
    strength = min(abs(math.log(ratio)) / math.log(_FULL_COLOUR), 1.0)
    direction = "dearer" if ratio > 1 else "cheaper"
    return {"direction": direction, "strength": strength, "text": f"{ratio:.2f}×"}


def overview_table(ablations: Sequence[Ablation], chip: str) -> Table:
    """The default of each model beside no pass at all."""
    rows = []
    for ablation in ablations:
        shown = chip_of(ablation, chip)
        best, none = ablation.variant(ablation.baseline), ablation.variant("original")
        if best.figures is None or none.figures is None:
            continue
        ours, theirs = best.figures.on(shown), none.figures.on(shown)
        rows.append(
            (
                ablation.model,
                none.figures.mil.ops,
                best.figures.mil.ops,
                theirs.ane_ops * 100,
                ours.ane_ops * 100,
                theirs.dispatch_ms,
                ours.dispatch_ms,
                theirs.latency_ms,
                ours.latency_ms,
                best.figures.rel_l2,
            )
        )
    columns = (
        Column("model", "code"),
        Column("operators without passes", "number"),
        Column("with", "number"),
        Column("on the ANE without, %", "number", 1),
        Column("with", "number", 1),
        Column("price without, ms", "number", 3),
        Column("with", "number", 3),
        Column("time without, ms", "number", 3),
        Column("with", "number", 3),
        Column("relative L2", "number", -2),
    )
    note = "Share, price and time are predicted; the error is measured in the interpreter."
    return Table("overview", "No pass, and all passes", note, columns, tuple(rows))
