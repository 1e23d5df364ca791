"""The report's charts as Vega-Lite specifications. Colours are CSS variables of the page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from frontend import fp16
from frontend.source import Source
from lowering.reporting.accuracy import Point
from lowering.reporting.result import Report
from lowering.reporting.tables import shape_text

if TYPE_CHECKING:
    from lowering.core_ai.growth import AssetPoint

Spec = dict[str, Any]

# The line through the errors is the geometric mean of so many values to both sides.
_TREND = 15
_DEVICE_COLOUR = {
    "field": "device",
    "type": "nominal",
    "title": "device (predicted)",
    "scale": {"domain": ["ane", "cpu"], "range": ["var(--ane)", "var(--cpu)"]},
}
# Where the left axis of stacked charts begins, so that their bars line up.
_AXIS = 52
# Height of a bar with its gap.
_ROW = 17
CONFIG: Spec = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "titleFontWeight": "normal",
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelFontSize": 11,
        "titleFontSize": 11,
    },
    "legend": {
        "labelColor": "var(--text)",
        "titleColor": "var(--muted)",
        "titleFontWeight": "normal",
        "orient": "top",
        "titleOrient": "left",
        "offset": 4,
    },
    "text": {"color": "var(--muted)"},
    "rule": {"color": "var(--muted)"},
}


def charts(report: Report) -> dict[str, Spec]:
    """Name of each chart that there are data for, and its specification."""
    found: dict[str, Spec] = {}
    if report.plan.ops:
        found["placement"] = placement(report)
        found["types"] = types(report, "count")
        found["type-prices"] = types(report, "price")
    if report.accuracy is not None and any(is_shown(p) for p in report.accuracy.growth):
        found["growth"] = growth(report)
    return found


def placement(report: Report) -> Spec:
    """One bar per operator in program order, a strip of devices, and an overview to zoom with."""
    rows = [
        {
            "i": index,
            "j": index + 1,
            "op": op.name,
            "type": op.op_type,
            "device": op.device,
            "price": op.chosen_ms,
            "in": ", ".join(map(shape_text, report.input_shapes[index])) or "–",
            "out": shape_text(op.figures.shape),
            "why": op.reason.sentence if op.reason else "–",
            "module": op.source.module or "–",
            "line": op.source.line or "–",
        }
        for index, op in enumerate(report.plan.ops)
    ]
    tooltip = [
        {"field": "op", "title": "operator"},
        {"field": "type"},
        {"field": "in", "title": "inputs"},
        {"field": "out", "title": "output"},
        {"field": "device", "title": "device (predicted)"},
        {"field": "price", "title": "price, ms (predicted)", "format": ".4f"},
        {"field": "why", "title": "why not on the ANE"},
        {"field": "module"},
        {"field": "line", "title": "source"},
    ]
    span = {"scale": {"domain": [0, len(rows)], "nice": False}}
    zoomed = {"scale": {"domain": {"param": "zoom"}, "nice": False}}
    no_axis = {"axis": None}

    def x(scale: Spec, axis: Spec) -> Spec:
        return {"field": "i", "type": "quantitative", **scale, **axis}

    ticks = {"axis": {"title": "operators in program order", "grid": False, "tickMinStep": 1}}
    bars = {
        "height": 120,
        "mark": {"type": "rect", "clip": True},
        "encoding": {
            "x": x(zoomed, no_axis),
            "x2": {"field": "j"},
            "y": {
                "field": "price",
                "type": "quantitative",
                "title": "price, ms (√ scale)",
                "scale": {"type": "sqrt"},
                "axis": {"minExtent": _AXIS, "maxExtent": _AXIS, "tickCount": 4},
            },
            "y2": {"datum": 0},
            "color": _DEVICE_COLOUR,
            "tooltip": tooltip,
        },
    }
    strip = {
        "height": 34,
        "mark": {"type": "rect", "clip": True},
        "encoding": {
            "x": x(zoomed, ticks),
            "x2": {"field": "j"},
            "color": _DEVICE_COLOUR,
            "tooltip": tooltip,
        },
    }
    runs = [
        {"i": segment.start, "j": segment.stop, "device": segment.device}
        for segment in report.plan.segments
    ]
    overview = {
        "height": 18,
        "data": {"values": runs},
        "params": [
            {
                "name": "zoom",
                "select": {"type": "interval", "encodings": ["x"]},
            }
        ],
        "mark": {"type": "rect", "opacity": 0.7},
        "encoding": {
            "x": x(
                span,
                {
                    "axis": {
                        "title": "drag here to zoom",
                        "grid": False,
                        "labels": False,
                        "ticks": False,
                        "domain": False,
                    }
                },
            ),
            "x2": {"field": "j"},
            "color": _DEVICE_COLOUR,
        },
    }
    return {
        "data": {"values": rows},
        "vconcat": [bars, strip, overview],
        "spacing": 6,
        "resolve": {"scale": {"color": "shared"}},
        "usermeta": {"left": _AXIS},
    }


def types(report: Report, what: str) -> Spec:
    """Operators (``count``) or the dispatcher's price (``price``) by MIL type and device."""
    totals: dict[tuple[str, str], float] = {}
    for op in report.plan.ops:
        key = (op.op_type, op.device)
        totals[key] = totals.get(key, 0.0) + (1 if what == "count" else op.chosen_ms)
    title = "operators" if what == "count" else "price, ms (predicted)"
    rows = [{"type": t, "device": d, "n": value} for (t, d), value in totals.items()]
    return {
        "data": {"values": rows},
        "width": "container",
        "height": _ROW * len({row["type"] for row in rows}),
        "autosize": {"type": "fit-x", "contains": "padding"},
        "mark": {"type": "bar", "cornerRadiusEnd": 2},
        "encoding": {
            "y": {"field": "type", "type": "nominal", "sort": "-x", "title": None},
            "x": {"field": "n", "type": "quantitative", "title": title},
            "color": {**_DEVICE_COLOUR, "legend": None},
            "tooltip": [
                {"field": "type"},
                {"field": "device", "title": "device (predicted)"},
                {"field": "n", "title": title, "format": "," if what == "count" else ".4f"},
            ],
        },
    }


def is_shown(point: Point | AssetPoint) -> bool:
    """Whether its error has a place on a logarithmic axis."""
    return 0 < point.rel_l2 < math.inf


def growth(report: Report) -> Spec:
    """Relative error of every value that package and original share, in program order."""
    assert report.accuracy is not None
    ops = report.plan.ops
    return error_chart(
        [
            error_row(point.op, point, ops[point.op].op_type, ops[point.op].source)
            for point in report.accuracy.growth
            if is_shown(point)
        ],
        len(ops),
    )


def error_row(place: int, point: Point | AssetPoint, op_type: str, source: Source) -> Spec:
    """A row of ``error_chart``: the value of the operator at ``place``."""
    return {
        "i": place,
        "error": point.rel_l2,
        "value": point.value,
        "type": op_type,
        "target": point.target,
        "module": source.module or "–",
        "line": source.line or "–",
    }


def error_chart(rows: list[Spec], ops: int) -> Spec:
    """Errors along a program.

    Args:
        rows: from ``error_row``, of errors above zero.
        ops: how many operators the program has.
    """
    x: Spec = {
        "field": "i",
        "type": "quantitative",
        "title": "operators in program order",
        "scale": {"domain": [0, ops], "nice": False},
        "axis": {"grid": False},
    }
    errors = [row["error"] for row in rows]
    decades = range(math.floor(math.log10(min(errors))), math.ceil(math.log10(max(errors))) + 1)
    y: Spec = {
        "field": "error",
        "type": "quantitative",
        "scale": {"type": "log", "domain": [10.0 ** decades[0], 10.0 ** decades[-1]]},
        "title": "relative L2 error",
        "axis": {"format": ".0e", "values": [10.0**decade for decade in decades]},
    }
    tooltip = [
        {"field": "value"},
        {"field": "type"},
        {"field": "target", "title": "torch"},
        {"field": "error", "title": "relative L2 (measured)", "format": ".2e"},
        {"field": "module"},
        {"field": "line", "title": "source"},
    ]
    rounding: Spec = {"mark": {"type": "rule", "strokeDash": [4, 4]}, "encoding": {}}
    rounding["encoding"] = {"y": {"datum": fp16.ROUNDING}}
    points: Spec = {
        "mark": {"type": "circle", "color": "var(--accent)", "size": 26, "opacity": 0.45},
        "encoding": {"x": x, "y": y, "tooltip": tooltip},
    }
    trend: Spec = {
        "transform": [
            {"calculate": "log(datum.error)", "as": "log"},
            {
                "window": [{"op": "mean", "field": "log", "as": "mean"}],
                "frame": [-_TREND, _TREND],
                "sort": [{"field": "i"}],
            },
            {"calculate": "exp(datum.mean)", "as": "trend"},
        ],
        "mark": {"type": "line", "color": "var(--accent)", "strokeWidth": 2.5},
        "encoding": {"x": x, "y": {**y, "field": "trend"}},
    }
    return {
        "data": {"values": rows},
        "width": "container",
        "height": 240,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "layer": [rounding, points, trend],
    }
