"""What the verbs say about a package and about passes, as JSON and as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import coremltools as ct
from google.protobuf.message import Message
from rich.markup import escape
from rich.table import Table

from lowering.package.folder import stored_bytes
from lowering.precision.pins import PinReport

# Proto names of the element types that packages take and return.
_ELEMENT_TYPES = {65552: "float16", 65568: "float32", 65600: "float64", 131104: "int32"}
# Reasons shown below the pass table; --json has every refusal.
MAX_REASONS = 20


def package_json(mlmodel: ct.models.MLModel, path: Path) -> dict[str, Any]:
    """Path, size in bytes, inputs, outputs, states and op counts of a saved package."""
    description = mlmodel.get_spec().description
    operations = mlmodel._mil_program.functions["main"].operations
    counts = Counter(op.op_type for op in operations if op.op_type != "const")
    return {
        "package": str(path),
        "bytes": stored_bytes(path),
        "inputs": [_feature(entry) for entry in description.input],
        "outputs": [_feature(entry) for entry in description.output],
        "states": [entry.name for entry in description.state],
        "mil_ops": dict(counts.most_common()),
    }


def package_table(package: dict[str, Any]) -> Table:
    """Inputs, outputs and size of ``package_json``."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for kind in ("inputs", "outputs"):
        for entry in package[kind]:
            table.add_row(kind[:-1], escape(entry["name"]), entry["type"], str(entry["shape"]))
    for name in package["states"]:
        table.add_row("state", escape(name), "float16", "")
    ops = ", ".join(f"{count} {op}" for op, count in package["mil_ops"].items())
    table.add_row("MIL ops", str(sum(package["mil_ops"].values())), "", escape(ops))
    table.add_row("size", f"{package['bytes'] / 1e6:.1f} MB", "", "")
    return table


def pins_table(report: PinReport) -> Table:
    """One row for each operator that stays in float32, under what they do and cost."""
    table = Table(
        box=None, pad_edge=False, title=escape(report.summary()), title_justify="left",
        show_header=bool(report.pins or report.ends), title_style="",
    )  # fmt: skip
    for heading in ("in float32", "operator", "why", "line"):
        table.add_column(heading)
    for pin in (*report.ends, *report.pins):
        place = pin.source.line or pin.source.module or "unknown"
        table.add_row(pin.op_type, escape(pin.op), escape(pin.reason), escape(place))
    return table


def reports_table(reports: Sequence[Any]) -> Table:
    """One row for each pass."""
    table = Table(box=None, pad_edge=False)
    for heading in ("pass", "rewrites", "declined", "ops before", "after", "bytes", "seconds"):
        table.add_column(heading, justify="left" if heading == "pass" else "right")
    for report in reports:
        table.add_row(
            report.name,
            str(report.rewrites),
            str(len(report.declined)),
            str(sum(report.ops_before.values())),
            str(sum(report.ops_after.values())),
            f"{report.bytes_added:+,}",
            f"{report.seconds:.2f}",
        )
    return table


def reasons(reports: Sequence[Any]) -> list[str]:
    """Refusals as sentences, equal reasons of a pass counted together, with one place each."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for report in reports:
        for declined in report.declined:
            groups.setdefault((report.name, declined.reason), []).append(declined)
    lines = []
    for (name, reason), entries in list(groups.items())[:MAX_REASONS]:
        place = str(entries[0].source)
        more = f" and {len(entries) - 1} more" if len(entries) > 1 else ""
        lines.append(f"{name} left {entries[0].node} ({place}){more}: {reason}")
    if len(groups) > MAX_REASONS:
        lines.append(f"... and {len(groups) - MAX_REASONS} more reasons; --json lists them all")
    return lines


def _feature(entry: Message) -> dict[str, Any]:
    kind = entry.type.WhichOneof("Type")
    if kind == "imageType":
        image = entry.type.imageType
        return {"name": entry.name, "type": "image", "shape": [image.height, image.width]}
    array = entry.type.multiArrayType
    return {
        "name": entry.name,
        "type": _ELEMENT_TYPES.get(array.dataType, kind),
        "shape": _sizes(array),
    }


def _sizes(array: Any) -> list[Any]:
    """Sizes of a feature; ``"1..64"`` where any will do, one list for each of several shapes."""
    kind = array.WhichOneof("ShapeFlexibility")
    if kind == "shapeRange":
        return [
            size.lowerBound
            if size.lowerBound == size.upperBound
            else f"{size.lowerBound}..{size.upperBound if size.upperBound >= 0 else ''}"
            for size in array.shapeRange.sizeRanges
        ]
    if kind == "enumeratedShapes":
        shapes = [list(array.shape), *(list(s.shape) for s in array.enumeratedShapes.shapes)]
        return [shape for i, shape in enumerate(shapes) if shape not in shapes[:i]]
    return list(array.shape)
