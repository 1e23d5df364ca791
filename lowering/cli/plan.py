"""``ane-passes plan``: where a package is predicted to run, and why."""

from __future__ import annotations

from typing import Any

import click
from rich.markup import escape

from lowering.cli.common import (
    function_option,
    guarded,
    json_option,
    print_json,
    stdout_console,
    step,
)
from lowering.cli.compute_units import compute_units_option, constant_name
from lowering.cli.renamed import or_old, renamed_option

HELP = """Predict where each operator of a Core ML package runs, and why.

Rules and prices are those of Core ML's dispatcher, read from dumps of an M4. Nothing is run, so
this works on any OS; the latency is predicted, not measured.

\b
Examples:
  ane-passes plan tiny.mlpackage
  ane-passes plan tiny.mlpackage --chip "A17 Pro" --top 20
  ane-passes plan tiny.mlpackage --json
  ane-passes plan tiny.mlpackage --planned plan.json

Made on a Mac with `python -m lowering.planner.export_compute_plan`, a --planned file shows what
Core ML itself planned beside the prediction.

Exit codes: 0 planned, 2 the package or the call needs attention.
"""


@click.command("plan", help=HELP, short_help="Predict where each operator runs, and why.")
@click.argument("package", metavar="PACKAGE")
@click.option(
    "--chip", default="M4", show_default=True, callback=or_old, help="Such as M1 or 'A17 Pro'."
)
@renamed_option("--target", "--chip")
@compute_units_option("As in coremltools; GPU placement cannot be predicted.")
@click.option("--planned", metavar="FILE", help="Compute plan exported on a Mac, to compare with.")
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="How many of the most expensive operators to show.",
)
@function_option
@click.option("--observe", "calls", type=click.IntRange(min=1), help="On a Mac: time N calls.")
@json_option
@guarded
def plan(
    package: str,
    chip: str,
    compute_units: str,
    planned: str | None,
    top: int,
    function: str,
    calls: int | None,
    as_json: bool,
) -> None:
    """See ``HELP``."""
    with step("Planning"):
        from lowering.contract.verbs import plan as plan_package
        from lowering.planner.planned import compare, read_compute_plan

        core_ml = None if planned is None else read_compute_plan(planned)
        made = plan_package(
            package, chip=chip, compute_units=constant_name(compute_units), function=function
        )
        comparison = None if core_ml is None else compare(made, *core_ml)
    observed = None if calls is None else _observed(package, constant_name(compute_units), calls)
    if as_json:
        document = made.to_json()
        if comparison is not None:
            document["comparison"] = comparison.to_json()
        if observed is not None:
            document["observed"] = observed
        print_json(document)
        return
    from lowering.planner.tables import plan_text

    console = stdout_console()
    for part in plan_text(made, top, comparison):
        console.print(part)
    if observed is not None:
        console.print(escape(_observed_line(observed)))


def _observed(package: str, compute_units: str, calls: int) -> dict[str, Any]:
    from lowering.planner.observe import ObserveError, observe

    try:
        return observe(package, compute_units=compute_units, calls=calls).to_json()
    except ObserveError as error:
        return {"kind": "observed", "skipped": error.message, "found": error.details["found"]}


def _observed_line(observed: dict[str, Any]) -> str:
    if "skipped" in observed:
        return f"observed: skipped: {observed['skipped']}; this is {observed['found']}"
    return (
        f"observed: {observed['median_ms']:.3f} ms, median of {observed['calls']} calls "
        f"({observed['minimum_ms']:.3f} to {observed['maximum_ms']:.3f}) on {observed['system']}"
    )
