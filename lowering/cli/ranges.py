"""``ane-passes ranges``: what float16 does to every value of a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lowering.cli.arrays import read_arrays
from lowering.cli.calibration import calibration_options, stated_range
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
from lowering.cli.load_model import MODEL_HELP, is_folder, load_model_call, trust_option
from lowering.cli.load_passes import with_pass_option
from lowering.cli.pipeline import chosen_passes, composites_option, pipeline_option

if TYPE_CHECKING:
    from lowering.contract.folder import ModelFolder

HELP = f"""Show the range of every value of a model, and what float16 does to it.

The model is rewritten and lowered as for `convert`, in float32, and run in the interpreter, each
operator beside its float16 form. Found is what overflows, what vanishes, what loses its digits
(angles, coordinates, positions, times, running sums, differences) and what hardware may not keep,
each with your source line and what helps. Inputs of whole numbers are also tried at the ends of
what they may be: of the table they index, of --input-range, or else up to 4095.

{MODEL_HELP}
\b
Examples:
  ane-passes ranges model.py:tiny
  ane-passes ranges model.py:rotary --input-range positions=0:8191
  ane-passes ranges model.py:tiny --calibration a.npz --calibration b.npz --json

Exit codes: 0 float16 harms nothing, 1 it does, 2 the model or the call needs attention.
"""


@click.command("ranges", help=HELP, short_help="Ranges of all values, and what float16 harms.")
@click.argument("model_spec", metavar="MODEL")
@trust_option
@calibration_options
@click.option(
    "--top",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="How many of the values that float16 keeps worst to list; --json has all.",
)
@deployment_target_option()
@pipeline_option
@with_pass_option
@composites_option
@json_option
@guarded
def ranges(
    model_spec: str,
    trust: bool,
    calibration: tuple[Path, ...],
    input_range: tuple[str, ...],
    top: int,
    deployment_target: str,
    pipeline: Path | None,
    own_passes: tuple[str, ...],
    composites: str | None,
    as_json: bool,
) -> None:
    """See ``HELP``."""
    with step("Loading the model"):
        lowerings = () if composites is None else load_composites(composites)
        folder = _folder(model_spec, trust)
        loaded = load_model_call(model_spec, trust)
        further = [read_arrays(path) for path in calibration]
    with step("Running the model in float32 and beside it in float16"):
        import coremltools as ct

        from lowering.precision.ranges import ranges as ranges_of

        found = ranges_of(
            loaded.model if folder is None else folder,
            [loaded.args, *further],
            kwargs=loaded.kwargs,
            dynamic_shapes=loaded.dynamic_shapes,
            input_ranges=dict(map(stated_range, input_range)),
            composites=lowerings,
            pipeline=chosen_passes(None, pipeline, own_passes=own_passes),
            minimum_deployment_target=ct.target[deployment_target],
        )
    if as_json:
        print_json(found.to_json())
    else:
        from lowering.precision.tables import ranges_text

        console = stdout_console()
        for part in ranges_text(found, top):
            console.print(part)
    if not found:
        sys.exit(EXIT_CHECK_FAILED)


def _folder(model_spec: str, trust: bool) -> ModelFolder | None:
    """The folder of a contract, which may say what its inputs hold."""
    if not is_folder(model_spec):
        return None
    from lowering.contract.folder import open_folder

    return open_folder(model_spec, trust=trust)
