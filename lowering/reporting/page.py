"""The report as one HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from typing import Any

from lowering.ablation.result import Ablation
from lowering.reporting import ablation as of_ablation
from lowering.reporting import asset as of_asset
from lowering.reporting.ablation_overview import overview as overview_chart
from lowering.reporting.ablation_overview import overview_table
from lowering.reporting.asset import AssetReport
from lowering.reporting.charts import CONFIG, charts
from lowering.reporting.graph_layout import HEIGHT, WIDTH, layout
from lowering.reporting.op_graph import OpGraph
from lowering.reporting.pictures import colour, drawn
from lowering.reporting.result import Report, ReportError
from lowering.reporting.size_ladder import LadderPart
from lowering.reporting.summary import facts, sentences
from lowering.reporting.tables import Table, all_tables, shape_text
from lowering.support.finite import finite


def page(report: Report) -> str:
    """The page of one package.

    Raises:
        ReportError: the packages of the extra ``report`` are not installed.
    """
    specs = charts(report)
    tables = {table.name: table for table in all_tables(report)}
    parts = [] if report.ablation is None else [_part(report.ablation, report.plan.target, 0)]
    ladder = None if report.ladder is None else LadderPart.of(report.ladder)
    return _rendered(
        "report.html",
        f"{report.package.name} on {report.plan.target}",
        {**specs, **_charts_of(parts), **(ladder.specs if ladder else {})},
        [
            *tables.values(),
            *(part["table"] for part in parts),
            *([ladder.table] if ladder else []),
        ],
        report=report,
        plan=report.plan,
        facts=facts(report),
        sentences=sentences(report),
        charts=specs,
        tables=tables,
        graphs=_graphs(report),
        ablation_part=parts[0] if parts else None,
        ladder_part=ladder,
        looks=drawn(report.pictures),
    )


def asset_page(report: AssetReport) -> str:
    """The page of one Core AI asset.

    Raises:
        ReportError: the packages of the extra ``report`` are not installed.
    """
    specs = of_asset.charts(report)
    tables = {table.name: table for table in of_asset.tables(report)}
    return _rendered(
        "asset.html",
        f"{report.package.name} in Core AI",
        specs,
        list(tables.values()),
        report=report,
        facts=of_asset.facts(report),
        sentences=of_asset.sentences(report),
        charts=specs,
        tables=tables,
    )


def ablations_page(ablations: Sequence[Ablation], chip: str) -> str:
    """The page of ablations, of one model or of several.

    Raises:
        ReportError: the packages of the extra ``report`` are not installed.
    """
    parts = [_part(ablation, chip, number) for number, ablation in enumerate(ablations)]
    overview = overview_table(ablations, chip)
    return _rendered(
        "ablations.html",
        "Ablation of the passes",
        {"overview": overview_chart(ablations, chip), **_charts_of(parts)},
        [overview, *(part["table"] for part in parts)],
        chip=parts[0]["chip"],
        overview=overview,
        parts=parts,
    )


def _part(ablation: Ablation, chip: str, number: int) -> dict[str, Any]:
    """What the template shows of one ablation; ``number`` sets its names apart."""
    chip = of_ablation.chip_of(ablation, chip)
    specs = of_ablation.charts(ablation, chip)
    table = of_ablation.table(ablation, chip)
    return {
        "id": f"ablation-{number}",
        "model": ablation.model,
        "chip": chip,
        "notes": of_ablation.notes(ablation, chip),
        "table": replace(table, name=f"{table.name}-{number}"),
        "specs": {f"{name}-{number}": spec for name, spec in specs.items()},
        **{name: f"{name}-{number}" if name in specs else None for name in of_ablation.CHARTS},
    }


def _charts_of(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {name: spec for part in parts for name, spec in part["specs"].items()}


def _rendered(
    template: str, title: str, specs: dict[str, Any], data_tables: Sequence[Table], **values: object
) -> str:
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"shape": shape_text, "colour": colour}
    data = {
        "charts": specs,
        "config": CONFIG,
        "tables": {table.name: table.to_json() for table in data_tables},
    }
    return environment.get_template(template).render(
        title=title,
        css=_asset("report.css"),
        data=_script_safe(json.dumps(finite(data), ensure_ascii=False, separators=(",", ":"))),
        library=_script_safe(_library()),
        script=_asset("report.js"),
        **values,
    )


@functools.cache
def _library() -> str:
    """Vega, Vega-Lite and vega-embed in one script, as vl-convert ships them."""
    try:
        import vl_convert
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def _missing(error: ModuleNotFoundError) -> ReportError:
    return ReportError(
        "pages need packages that are not installed",
        found=f"no module {error.name}",
        hint='pip install "ane-passes[report]", or --format md',
    )


def _asset(name: str) -> str:
    return resources.files("lowering.reporting").joinpath("assets", name).read_text("utf-8")


def _script_safe(text: str) -> str:
    """``text`` without anything that ends or opens a script element; the same to JavaScript."""
    return text.replace("</script", "<\\/script").replace("<!--", "\\u003c!--")


def _graphs(report: Report) -> list[dict[str, Any]]:
    if report.block is None:
        return []
    found = []
    if report.block.before is not None:
        title = f"Before: {report.block.before.ops} torch operators"
        found.append(_drawing(report.block.before, title))
    title = f"After: {report.block.after.ops} MIL operators"
    found.append(_drawing(report.block.after, title))
    return found


def _drawing(graph: OpGraph, title: str) -> dict[str, Any]:
    """What the template draws a graph from."""
    placed = layout(graph)
    return {
        "title": title,
        "width": round(placed.width, 1),
        "height": round(placed.height, 1),
        "vertices": [
            {"x": round(x, 1), "y": round(y, 1), "w": WIDTH, "h": HEIGHT, "vertex": vertex}
            for (x, y), vertex in zip(placed.places, graph.vertices, strict=True)
        ],
        "paths": [_curve(points) for points in placed.paths],
    }


def _curve(points: tuple[tuple[float, float], ...]) -> str:
    """An SVG path: straight down past layers, curved between them."""
    (x, y), *rest = points
    parts = [f"M{x:g} {y:g}"]
    for next_x, next_y in rest:
        middle = (y + next_y) / 2
        parts.append(f"C{x:g} {middle:g} {next_x:g} {middle:g} {next_x:g} {next_y:g}")
        x, y = next_x, next_y
    return "".join(parts)
