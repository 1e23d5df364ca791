"""What is known of a Core AI asset: its interface, its operators, and what they err by.

Nothing here is predicted: no evidence tells where Core AI places an operator, or what it costs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from frontend.model_call import ModelCall
from frontend.source import Source
from lowering.contract.folder import ModelFolder
from lowering.core_ai.asset import PREFIX, Interface, read_interface
from lowering.core_ai.growth import AssetPoint, error_growth, operators_of
from lowering.core_ai.locating import AssetCall
from lowering.core_ai.runtime import starts
from lowering.core_ai.verifier import verify_core_ai
from lowering.package.folder import stored_bytes
from lowering.reporting.charts import Spec, error_chart, error_row, is_shown
from lowering.reporting.collect import original_for, passes_of_package
from lowering.reporting.result import PackageFacts, ReportError
from lowering.reporting.summary import COUNTED, Fact, count_of, error_fact, error_sentence
from lowering.reporting.tables import Column, Table, outputs_table, passes_table, shape_text
from lowering.support.finite import finite
from lowering.verification import Verification
from passes.base import Pass

RUNTIME = "Apple's runtime"
NOT_PREDICTED = (
    "Placement and cost are not predicted: there is no evidence yet of how Core AI places operators"
)
_VERSIONS = {"ane-passes": "version", "torch": "torch", "coreai-torch": "coreai-torch"}


@dataclass(frozen=True)
class AssetReport:
    """Everything that is known of one asset.

    Attributes:
        package: the file.
        interface: what it takes, returns and keeps.
        precision: ``float16`` or ``float32``.
        operators: Core AI's names of its operators by place in the program, constants aside.
        outputs: how far it is from its original, *measured* in Apple's runtime; ``None`` without
            an original.
        growth: the error of each value that both compute, in program order.
    """

    package: PackageFacts
    interface: Interface
    precision: str
    operators: Mapping[int, str]
    outputs: Verification | None = None
    growth: tuple[AssetPoint, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is unknown is ``null``."""
        found = finite(
            {
                "package": self.package.to_json(),
                "format": "aimodel",
                "interface": asdict(self.interface),
                "precision": self.precision,
                "operators": list(self.operators.values()),
                "kind": f"measured in {RUNTIME}",
                "outputs": None if self.outputs is None else self.outputs.to_json(),
                "growth": [
                    {**vars(point), "source": asdict(point.source)} for point in self.growth
                ],
            }
        )
        assert isinstance(found, dict)
        return found


def collect_asset(
    asset: Path,
    call: ModelCall | ModelFolder | None = None,
    *,
    inputs: Mapping[str, Any] | None = None,
    known_passes: Sequence[type[Pass]] = (),
) -> AssetReport:
    """Everything there is to say of an asset.

    Args:
        asset: path of an ``.aimodel``.
        call: the model it was made from, or its contract's folder; without it nothing is run.
        inputs: arrays by the names of the model's inputs, in place of the example inputs.
        known_passes: classes of your own passes that the asset may name.

    Raises:
        PackageError: it is no asset, or none that this package made.
        CoreAIError: Core AI is not installed, or it cannot read the asset.
        VerificationError, CaptureError: ``call`` is not what the asset was made from.
    """
    interface, metadata = read_interface(asset)
    precision = metadata.get(PREFIX + "precision", "float16")
    original = outputs = None
    growth: tuple[AssetPoint, ...] = ()
    if call is not None:
        original = original_for(call, metadata, known_passes, inputs)
        outputs = verify_core_ai(asset, original)
        if outputs.error is None:  # else the runtime ends on the asset
            growth = error_growth(AssetCall(asset, original, starts(asset), precision))
    versions = {n: metadata[PREFIX + k] for n, k in _VERSIONS.items() if PREFIX + k in metadata}
    reports = () if original is None else original.reports
    return AssetReport(
        package=PackageFacts(
            asset.name, stored_bytes(asset), versions, passes_of_package(metadata, reports)
        ),
        interface=interface,
        precision=precision,
        operators=operators_of(asset),
        outputs=outputs,
        growth=growth,
    )


def refuse_for_asset(**given: object) -> None:
    """Raise where something is ``given`` that a report of an asset cannot show.

    Raises:
        ReportError: see above.
    """
    names = [name for name, value in given.items() if value]
    if names:
        raise ReportError(
            "a report of a Core AI asset cannot show this",
            expected="an asset, and its model with inputs",
            found=", ".join(names),
            hint="report the .mlpackage of the same program",
        )


def facts(report: AssetReport) -> list[Fact]:
    """The summary's figures."""
    found = []
    if report.outputs is not None:
        worst = max((output.rel_l2 for output in report.outputs.outputs), default=math.inf)
        found.append(error_fact(report.outputs, worst, RUNTIME))
    kinds = len(set(report.operators.values()))
    return [
        *found,
        Fact("operators", f"{len(report.operators):,}", f"of {count_of(kinds, 'kind')}", COUNTED),
        Fact("asset", f"{report.package.bytes / 1e6:.1f} MB", report.precision, COUNTED),
    ]


def sentences(report: AssetReport) -> list[str]:
    """What the figures come to."""
    lines = [f"{NOT_PREDICTED}."]
    if report.outputs is not None:
        lines.append(error_sentence(report.outputs, RUNTIME, "asset"))
    return lines


def charts(report: AssetReport) -> dict[str, Spec]:
    """The growth of the error, where there is one."""
    order = {place: index for index, place in enumerate(report.operators)}
    rows = [
        error_row(order[point.op], point, point.op_type, point.source)
        for point in report.growth
        if is_shown(point)
    ]
    return {"growth": error_chart(rows, len(report.operators))} if rows else {}


def tables(report: AssetReport) -> list[Table]:
    """The tables that have rows, in the order of the report."""
    made = [
        outputs_table(report.outputs, RUNTIME),
        _interface(report.interface),
        _kinds(report.operators.values()),
        passes_table(report.package.passes, "ane-passes report ASSET MODEL"),
        operators(report),
    ]
    return [table for table in made if table.rows]


def operators(report: AssetReport) -> Table:
    """Every operator, and how far its value is from the original's where that has it too."""
    columns = (
        Column("#", "number"),
        Column("operator", "code"),
        Column("torch", "code"),
        Column("relative L2", "number", -2),
        Column("module", "code"),
        Column("source", "code"),
    )
    points = {point.op: point for point in report.growth}
    rows = []
    for index, (place, name) in enumerate(report.operators.items()):
        point = points.get(place)
        source = Source() if point is None else point.source
        torch_op, error = ("", None) if point is None else (point.target, point.rel_l2)
        rows.append((index, name, torch_op, error, source.module, source.line))
    note = f"Measured in {RUNTIME}, against the original in float32, inherited error included."
    if not points:
        note = "Errors along the program need the original: ane-passes report ASSET MODEL."
    return Table("operators", "Operators", note, columns, tuple(rows))


def _interface(interface: Interface) -> Table:
    columns = (Column("what"), Column("name", "code"), Column("shape", "code"), Column("dtype"))
    rows = tuple(
        (what, port.name, shape_text(port.shape), port.dtype)
        for what, ports in (
            ("input", interface.inputs),
            ("output", interface.outputs),
            ("state", interface.states),
        )
        for port in ports
    )
    return Table("interface", "Interface", "In call order.", columns, rows)


def _kinds(operators: Iterable[str]) -> Table:
    columns = (Column("operator", "code"), Column("count", "number"))
    rows = tuple(Counter(operators).most_common())
    return Table("kinds", "Operators by kind", "Constants aside.", columns, rows)
