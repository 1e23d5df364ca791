"""A report in any of its formats, and the ablations and ladders that it may show."""

from __future__ import annotations

import json
from pathlib import Path

from frontend.json_text import parse
from lowering.ablation.result import Ablation
from lowering.compression.ladder_result import Ladder
from lowering.reporting import asset as of_asset
from lowering.reporting.asset import AssetReport
from lowering.reporting.model_explorer import graph_json
from lowering.reporting.page import asset_page, page
from lowering.reporting.result import Report, ReportError
from lowering.reporting.tables import operators
from lowering.reporting.text import asset_markdown, csv_text, markdown
from lowering.support.finite import finite

FORMATS = ("html", "md", "csv", "json", "graph-json")
_SUFFIXES = {".html": "html", ".htm": "html", ".md": "md", ".csv": "csv", ".json": "json"}


def format_of(output: str | Path | None) -> str:
    """What the suffix of ``output`` means where no format is given: a page if it says nothing."""
    return "html" if output is None else _SUFFIXES.get(Path(output).suffix.lower(), "html")


def written(report: Report | AssetReport, output_format: str) -> str:
    """``report`` as one text.

    Args:
        report: the data.
        output_format: one of ``FORMATS``.

    Raises:
        ReportError: a page is asked for, and its packages are not installed; or a graph of an
            asset, whose operators have no placement.
    """
    if isinstance(report, AssetReport):
        return _of_asset(report, output_format)
    if output_format == "html":
        return page(report)
    if output_format == "md":
        return markdown(report)
    if output_format == "csv":
        return csv_text(operators(report))
    value = graph_json(report) if output_format == "graph-json" else report.to_json()
    return json.dumps(finite(value), indent=1, ensure_ascii=False)


def _of_asset(report: AssetReport, output_format: str) -> str:
    if output_format == "html":
        return asset_page(report)
    if output_format == "md":
        return asset_markdown(report)
    if output_format == "csv":
        return csv_text(of_asset.operators(report))
    if output_format == "json":
        return json.dumps(report.to_json(), indent=1, ensure_ascii=False)
    raise ReportError(
        "a report of a Core AI asset has no such format",
        expected="html, md, csv or json",
        found=output_format,
        hint="the .mlpackage of the same program has a graph with placement and prices",
    )


def read_ablations(path: Path) -> list[Ablation]:
    """The ablations in a JSON file, one for each model.

    Raises:
        ReportError: there are none.
    """
    try:
        found = parse(path.read_text(encoding="utf-8"))
        documents = found if isinstance(found, list) else [found]
        if not documents:
            raise ValueError("an empty list")
        return [Ablation.from_json(document) for document in documents]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ReportError(
            "the ablation cannot be read",
            expected="what `ane-passes ablate --json` prints",
            found=f"{path}: {type(error).__name__}: {error}",
        ) from error


def read_ladder(path: Path) -> Ladder:
    """The ladder of sizes in a JSON file.

    Raises:
        ReportError: there is none.
    """
    try:
        return Ladder.from_json(parse(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ReportError(
            "the ladder cannot be read",
            expected="what `ane-passes compress PACKAGE MODEL --ladder --json` prints",
            found=f"{path}: {type(error).__name__}: {error}",
        ) from error


def read_ablation(path: Path, model: str | None = None) -> Ablation:
    """The ablation in a JSON file; of several, the one of ``model``.

    Raises:
        ReportError: there is none.
    """
    found = read_ablations(path)
    if len(found) == 1:
        return found[0]
    named = [entry for entry in found if entry.model == model]
    if len(named) != 1:
        raise ReportError(
            "the file holds ablations of several models",
            expected=", ".join(entry.model for entry in found),
            found=model or "no MODEL",
            hint="name the model's function as MODEL",
        )
    return named[0]
