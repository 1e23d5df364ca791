"""The ablation in a report: its table and its charts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lowering.ablation.result import Ablation, Figures, VariantResult
from lowering.reporting.tables import Column, Table

Spec = dict[str, Any]

_COLOURS = {
    "default": "var(--accent)",
    "faster": "var(--good)",
    "slower": "var(--bad)",
    "no measurable difference": "var(--muted)",
    "unknown": "var(--muted)",
}
# Names of the charts.
CHARTS = ("time", "price", "prefix")
_ROW = 19
# Longer lists of names are left to the table.
_LISTED = 6
# Prices that differ by a smaller part are drawn as equal.
SAME_PRICE = 0.005
_LONGEST_NAME = 200  # pixels


def chip_of(ablation: Ablation, chip: str) -> str:
    """The chip to show: ``chip`` where the ablation has it, else its first."""
    return chip if chip in ablation.targets else ablation.targets[0]


def table(ablation: Ablation, chip: str) -> Table:
    """One row for each variant, those with another's program included."""
    rows = tuple(_row(ablation, variant, chip) for variant in ablation.variants)
    columns = (
        Column("variant", "code"),
        Column("kind", "code"),
        Column("beside the default", "code"),
        Column("time, ms", "number", 3),
        Column("from", "number", 3),
        Column("to", "number", 3),
        Column("price, ms", "number", 3),
        Column("on the ANE, %", "number", 1),
        Column("switches", "number"),
        Column("operators", "number"),
        Column("transposes", "number"),
        Column("reshapes", "number"),
        Column("rank ≠ 4", "number"),
        Column("activations, MB", "number", 1),
        Column("padded, MB", "number", 1),
        Column("largest, MB", "number", 2),
        Column("weights, MB", "number", 1),
        Column("relative L2", "number", -2),
        Column("torch on CPU, ms", "number", 1),
        Column("optimise, s", "number", 2),
        Column("convert, s", "number", 2),
    )
    note = (
        f"Time, price, share and switches are predicted for {chip}; the error is measured in the "
        "interpreter; milliseconds in torch and seconds were observed where the ablation ran."
    )
    return Table("ablation", "Ablation", note, columns, rows)


def notes(ablation: Ablation, chip: str) -> list[str]:
    """What the ablation comes to, in sentences."""
    verdicts: dict[str, list[str]] = {}
    for variant in ablation.variants:
        if variant.kind in ("without", "form", "original") and variant.same_as is None:
            verdict = ablation.difference(variant, chip).verdict
            verdicts.setdefault(verdict, []).append(variant.name)
    lines = []
    for verdict in ("faster", "slower"):
        for name in verdicts.get(verdict, ()):
            ratio = ablation.difference(ablation.variant(name), chip).latency_ratio
            lines.append(f"{name}: {verdict}, {ratio:.2f} × the default's predicted time")
    if none := verdicts.get("no measurable difference"):
        names = "; ".join(none) if len(none) <= _LISTED else f"{len(none)} variants"
        lines.append(f"no measurable difference (within the interval): {names}")
    idle = [
        variant.name.removeprefix("without ")
        for variant in ablation.variants
        if variant.kind == "without" and variant.same_as == ablation.baseline
    ]
    if idle:
        lines.append(f"passes without which the program is the same: {', '.join(idle)}")
    return lines


def charts(ablation: Ablation, chip: str) -> dict[str, Spec]:
    """Predicted time and price of each program, and what each further pass changes."""
    distinct = [
        variant
        for variant in ablation.variants
        if variant.figures is not None and variant.same_as is None and variant.kind != "prefix"
    ]
    rows = list(_points(ablation, distinct, chip))
    found = {}
    if any(row["ms"] is not None for row in rows):
        found["time"] = _times(rows)
    if rows:
        found["price"] = _prices(rows)
    steps = list(_steps(ablation, chip))
    if len(steps) > 2:
        found["prefix"] = _prefixes(steps)
    return found


def _points(
    ablation: Ablation, variants: Iterable[VariantResult], chip: str
) -> Iterable[dict[str, Any]]:
    for variant in variants:
        figures = variant.figures
        assert figures is not None  # variants without were left out
        predicted = figures.on(chip)
        difference = ablation.difference(variant, chip)
        is_default = variant.name == ablation.baseline
        yield {
            "name": variant.name,
            "kind": variant.kind,
            "verdict": "default" if is_default else difference.verdict,
            "price_verdict": "default" if is_default else _cheaper(difference.price_ratio),
            "ms": predicted.latency_ms,
            "low": predicted.low,
            "high": predicted.high,
            "price": predicted.dispatch_ms,
            "switches": predicted.switches,
            "ops": figures.mil.ops,
            "error": figures.rel_l2,
        }


def _cheaper(ratio: float | None) -> str:
    """A verdict on the price, which has no interval."""
    if ratio is None or abs(ratio - 1) < SAME_PRICE:
        return "unknown" if ratio is None else "no measurable difference"
    return "faster" if ratio < 1 else "slower"


_TOOLTIP = [
    {"field": "name", "title": "variant"},
    {"field": "verdict", "title": "beside the default"},
    {"field": "ms", "title": "time, ms (predicted)", "format": ".3f"},
    {"field": "low", "title": "from", "format": ".3f"},
    {"field": "high", "title": "to", "format": ".3f"},
    {"field": "price", "title": "price, ms (predicted)", "format": ".3f"},
    {"field": "switches", "title": "switches (predicted)"},
    {"field": "ops", "title": "operators"},
    {"field": "error", "title": "relative L2 (measured)", "format": ".1e"},
]
_COLOUR = {
    "field": "verdict",
    "type": "nominal",
    "title": None,
    "scale": {"domain": list(_COLOURS), "range": list(_COLOURS.values())},
}


def _names(rows: list[dict[str, Any]]) -> Spec:
    return {
        "field": "name",
        "type": "nominal",
        "sort": [row["name"] for row in rows],
        "title": None,
        "axis": {"labelLimit": _LONGEST_NAME, "grid": True, "tickSize": 0, "labelPadding": 6},
    }


def _frame(rows: list[dict[str, Any]]) -> Spec:
    return {
        "data": {"values": rows},
        "width": "container",
        "height": _ROW * len(rows),
        "autosize": {"type": "fit-x", "contains": "padding"},
    }


def _times(rows: list[dict[str, Any]]) -> Spec:
    known = [row for row in rows if row["ms"] is not None]
    default = [row for row in known if row["verdict"] == "default"]
    x = {"field": "ms", "type": "quantitative", "title": "time, ms (predicted)"}
    names = _names(known)
    verdicts = sorted({row["verdict"] for row in known})
    colour = {**_COLOUR, "legend": {"values": verdicts, "columns": 1}}
    band = {
        "data": {"values": default},
        "mark": {"type": "rect", "color": "var(--accent)", "opacity": 0.1},
        "encoding": {
            "x": {"field": "low", "type": "quantitative"},
            "x2": {"field": "high"},
        },
    }
    interval = {
        "mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.55},
        "encoding": {
            "y": names,
            "x": {"field": "low", "type": "quantitative"},
            "x2": {"field": "high"},
            "color": colour,
        },
    }
    points = {
        "mark": {"type": "circle", "size": 90, "opacity": 1},
        "encoding": {"y": names, "x": x, "color": colour, "tooltip": _TOOLTIP},
    }
    bands = [band] if default else []
    return {**_frame(known), "layer": [*bands, interval, points]}


def _prices(rows: list[dict[str, Any]]) -> Spec:
    return {
        **_frame(rows),
        "mark": {"type": "bar", "cornerRadiusEnd": 2},
        "encoding": {
            "y": _names(rows),
            "x": {"field": "price", "type": "quantitative", "title": "price, ms (predicted)"},
            "color": {**_COLOUR, "field": "price_verdict", "legend": None},
            "tooltip": _TOOLTIP,
        },
    }


def _steps(ablation: Ablation, chip: str) -> Iterable[dict[str, Any]]:
    """What the program costs with no pass, with the first, with the first two, and so on."""
    line = [v for v in ablation.variants if v.kind in ("original", "prefix")]
    line.append(ablation.variant(ablation.baseline))
    for place, variant in enumerate(line):
        if variant.figures is None:
            continue
        predicted = variant.figures.on(chip)
        last = variant.passes[-1].partition("(")[0] if variant.passes else "no pass"
        for what, ms in (("time", predicted.latency_ms), ("price", predicted.dispatch_ms)):
            if ms is not None:
                yield {"i": place, "after": last, "what": what, "ms": ms, "name": variant.name}


def _prefixes(steps: list[dict[str, Any]]) -> Spec:
    labels = {step["i"]: step["after"] for step in steps}
    shown = " : ".join(f"datum.value === {i} ? '{label}'" for i, label in labels.items())
    return {
        "data": {"values": steps},
        "width": "container",
        "height": 220,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "mark": {"type": "line", "interpolate": "step-after", "point": True},
        "encoding": {
            "x": {
                "field": "i",
                "type": "ordinal",
                "title": None,
                "axis": {"labelAngle": -50, "labelExpr": f"{shown} : ''", "labelLimit": 130},
            },
            "y": {"field": "ms", "type": "quantitative", "title": "ms (predicted)"},
            "color": {
                "field": "what",
                "type": "nominal",
                "title": None,
                "scale": {
                    "domain": ["time", "price"],
                    "range": ["var(--accent)", "var(--cpu)"],
                },
            },
            "tooltip": [
                {"field": "name", "title": "variant"},
                {"field": "what"},
                {"field": "ms", "title": "ms (predicted)", "format": ".3f"},
            ],
        },
    }


def _row(ablation: Ablation, variant: VariantResult, chip: str) -> tuple[Any, ...]:
    figures = variant.figures
    verdict = f"same program as {variant.same_as}" if variant.same_as else "default"
    if variant.same_as is None and variant.name != ablation.baseline:
        verdict = ablation.difference(variant, chip).verdict
    if figures is None:
        return (variant.name, variant.kind, variant.failure.splitlines()[0], *[None] * 18)
    predicted = figures.on(chip)
    return (
        variant.name,
        variant.kind,
        verdict,
        predicted.latency_ms,
        predicted.low,
        predicted.high,
        predicted.dispatch_ms,
        predicted.ane_ops * 100,
        predicted.switches,
        *_counted(figures),
        figures.rel_l2,
        figures.observed.cpu_ms,
        variant.optimize_seconds,
        figures.observed.convert_seconds,
    )


def _counted(figures: Figures) -> tuple[float, ...]:
    mil = figures.mil
    return (
        mil.ops,
        mil.count("transpose"),
        mil.count("reshape"),
        mil.not_rank4,
        mil.activation_bytes / 1e6,
        mil.padded_bytes / 1e6,
        mil.largest_bytes / 1e6,
        figures.weight_bytes / 1e6,
    )
