"""``ane-passes check``: everything in the way of a conversion, before it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from lowering.cli.common import (
    EXIT_CHECK_FAILED,
    guarded,
    json_option,
    print_json,
    stdout_console,
    step,
)
from lowering.cli.deployment_target import deployment_target_option
from lowering.cli.load_composites import load_composites
from lowering.cli.load_model import MODEL_HELP, load_model_call, trust_option
from lowering.cli.load_passes import with_pass_option
from lowering.cli.pipeline import chosen_passes, composites_option, pipeline_option

_LEVELS = ("fatal", "wrong", "off-ane", "slow")

HELP = f"""List everything that is in the way of converting a model, at once.

Each finding has a rule (see `ane-passes explain`), a severity, the operator, its places in your
source, what is done about it automatically and what you can do. Nothing is written. A model that
cannot be captured is run once in torch, so that its other obstacles are listed too.

\b
Severities, worst first:
  fatal     no package can be made
  wrong     a package can be made, and computes something else
  off-ane   runs, but not on the Neural Engine (predicted)
  slow      runs on the Neural Engine, in a form it likes less
  note      taken care of; nothing to do

{MODEL_HELP}
\b
Examples:
  ane-passes check model.py:tiny
  ane-passes check model.py:tiny --fail-on off-ane    # a gate for CI
  ane-passes check model.pt2 --json
  ane-passes check vit/ --ship --pictures cat.png --swift Vit.swift

Exit codes: 0 nothing as bad as --fail-on, 1 something is, 2 the call needs attention.
"""


@click.command("check", help=HELP, short_help="List what is in the way of a conversion.")
@click.argument("model_spec", metavar="MODEL")
@trust_option
@click.option(
    "--fail-on",
    type=click.Choice(_LEVELS),
    default="fatal",
    show_default=True,
    help="Exit with 1 if there is a finding as bad as this.",
)
@deployment_target_option()
@click.option("--chip", default="M4", show_default=True, help="Chip to predict placement for.")
@click.option("--quick", is_flag=True, help="Do not lower the program for trial.")
@click.option(
    "--ship",
    is_flag=True,
    help="The checklist before a folder of `ane-passes export` is shipped.",
)
@click.option("--package", type=click.Path(path_type=Path), help="Of --ship: the package.")
@click.option(
    "--pictures",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="Of --ship: pictures to verify on.",
)
@click.option(
    "--planned",
    type=click.Path(path_type=Path, exists=True),
    help="Of --ship: the compute plan that Core ML wrote on a Mac.",
)
@click.option(
    "--swift",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Of --ship: write a Swift file there that loads the package.",
)
@pipeline_option
@with_pass_option
@composites_option
@json_option
@guarded
def check(
    model_spec: str,
    trust: bool,
    fail_on: str,
    deployment_target: str,
    chip: str,
    quick: bool,
    ship: bool,
    package: Path | None,
    pictures: tuple[Path, ...],
    planned: Path | None,
    swift: Path | None,
    pipeline: Path | None,
    own_passes: tuple[str, ...],
    composites: str | None,
    as_json: bool,
) -> None:
    """See ``HELP``."""
    if ship:
        _ship(model_spec, trust, package, pictures, chip, planned, swift, as_json)
        return
    if package or pictures or planned or swift:
        raise click.UsageError("--package, --pictures, --planned and --swift are of --ship.")
    with step("Loading the model"):
        lowerings = () if composites is None else load_composites(composites)
        loaded = load_model_call(model_spec, trust)
    with step("Looking for obstacles"):
        import coremltools as ct

        from lowering.checking.rules import Severity
        from lowering.checking.scan import check as check_model

        found = check_model(
            loaded.model,
            loaded.args,
            kwargs=loaded.kwargs,
            dynamic_shapes=loaded.dynamic_shapes,
            composites=lowerings,
            pipeline=chosen_passes(None, pipeline, own_passes=own_passes),
            minimum_deployment_target=ct.target[deployment_target],
            chip=chip,
            trial=not quick,
        )
    if as_json:
        print_json(found.to_json())
    else:
        from lowering.checking.tables import preflight_text

        console = stdout_console()
        for part in preflight_text(found):
            console.print(part)
    if found.at_least(Severity[fail_on.upper().replace("-", "_")]):
        sys.exit(EXIT_CHECK_FAILED)


def _ship(
    model_spec: str,
    trust: bool,
    package: Path | None,
    pictures: tuple[Path, ...],
    chip: str,
    planned: Path | None,
    swift: Path | None,
    as_json: bool,
) -> None:
    with step("Going through the checklist"):
        from lowering.contract.ship.checklist import ship as go_through

        found = go_through(
            model_spec, package=package, pictures=pictures, chip=chip, planned=planned, trust=trust
        )
    if swift is not None and not any(row.name == "folder" for row in found.of("fail")):
        from lowering.contract.folder import open_folder
        from lowering.contract.swift import swift_text
        from lowering.support.text_file import write_text

        write_text(swift_text(open_folder(model_spec, trust=trust).contract), swift)
    if as_json:
        print_json(found.to_json())
    else:
        stdout_console().print(found)
    if not found:
        sys.exit(EXIT_CHECK_FAILED)
