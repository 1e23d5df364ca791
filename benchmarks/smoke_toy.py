"""The toy model in torch, in ONNX Runtime and in its package, at the same nodes: a diagnostic.

ONNX is looked at and never converted; the one file this writes is results.json. What cannot run is
a SKIP, and SKIPs are counted in the last line.

Exit codes: 0 nothing failed, 1 something did, 2 the call needs attention.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

import lowering
import passes
from benchmarks.toy import toy
from lowering.cli.common import EXIT_CHECK_FAILED, guarded, stdout_console
from lowering.verification.onnx_probes import (
    SAME,
    ThreeWay,
    missing_for_onnx,
    probes_table,
    three_way,
)
from lowering.verification.parity import Thresholds
from lowering.verification.results_file import (
    ResultRow,
    check_results_path,
    totals,
    write_results,
)


@click.command(help=__doc__)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("out/smoke_toy/results.json"),
    show_default=True,
)
@guarded
def main(output: Path) -> None:
    """See the module."""
    check_results_path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    outcomes = list(compared())
    write_results(output, "smoke_toy", outcomes)
    counts = totals(outcomes)
    for outcome in outcomes:
        click.echo(f"{outcome.status.upper():4} {outcome.name} {outcome.reason}".rstrip())
    click.echo(
        f"{counts['pass']} passed, {counts['fail']} failed, {counts['skip']} SKIPPED; {output}"
    )
    if counts["fail"]:
        sys.exit(EXIT_CHECK_FAILED)


def compared() -> list[ResultRow]:
    """Torch beside the package, and beside ONNX Runtime where that is installed."""
    model, inputs = toy()
    start = time.perf_counter()
    package = lowering.convert(passes.optimize_for_ane(model, inputs), skip_model_load=True)
    lacking = missing_for_onnx()
    rows = three_way(package, model, inputs, onnx=not lacking)
    stdout_console().print(probes_table(rows))
    seconds = time.perf_counter() - start
    errors = [row.package for row in rows if row.package is not None]
    worst = max(errors)
    allowed = Thresholds().fp16_alone
    found = [_outcome("torch ↔ package", worst, allowed, seconds, rows)]
    if lacking:
        reason = f'{", ".join(lacking)} not installed: pip install "ane-passes[onnx]"'
        return [*found, ResultRow("torch ↔ ONNX Runtime", "skip", 0.0, reason)]
    onnx = max(row.onnx for row in rows if row.onnx is not None)
    return [*found, _outcome("torch ↔ ONNX Runtime", onnx, SAME, seconds, rows)]


def _outcome(
    name: str, worst: float, allowed: float, seconds: float, rows: list[ThreeWay]
) -> ResultRow:
    passed = worst <= allowed
    return ResultRow(
        name,
        "pass" if passed else "fail",
        round(seconds, 3),
        "" if passed else f"{worst:.1e} at a node, {allowed:.0e} allowed",
        probes=tuple(row.to_json() for row in rows),
    )


if __name__ == "__main__":
    main()
