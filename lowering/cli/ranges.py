"""``ane-passes ranges``: what float16 does to every value of a model."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

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
from lowering.cli.load_model import MODEL_HELP, is_folder, load_model_call, trust_option
from lowering.cli.load_passes import with_pass_option
from lowering.cli.pipeline import chosen_passes, composites_option, pipeline_option

if TYPE_CHECKING:
    import numpy as np

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
@click.option(
    "--calibration",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    metavar="FILE.npz",
    help="Inputs by name to run on as well. May be repeated.",
)
@click.option(
    "--input-range",
    "bounds",
    multiple=True,
    metavar="NAME=LOW:HIGH",
    help="Between which numbers an input may lie. May be repeated.",
)
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
    bounds: tuple[str, ...],
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
        further = [_arrays(path) for path in calibration]
    with step("Running the model in float32 and beside it in float16"):
        import coremltools as ct

        from lowering.precision.ranges import ranges as ranges_of

        found = ranges_of(
            loaded.model if folder is None else folder,
            [loaded.args, *further],
            kwargs=loaded.kwargs,
            dynamic_shapes=loaded.dynamic_shapes,
            input_ranges=dict(map(_bound, bounds)),
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


def _bound(text: str) -> tuple[str, tuple[float, float]]:
    name, equals, ends = text.partition("=")
    low, colon, high = ends.partition(":")
    try:
        if not (name and equals and colon):
            raise ValueError
        return name, (float(low), float(high))
    except ValueError:
        raise click.UsageError(
            f"--input-range cannot be read: expected NAME=LOW:HIGH, found {text!r}."
        ) from None


def _arrays(path: Path) -> Mapping[str, np.ndarray]:
    """The inputs in a file, by name."""
    from frontend.errors import InputError
    from lowering.support.array_file import READ_ERRORS, read_array_file

    try:
        found = read_array_file(path)
    except READ_ERRORS as error:
        raise InputError("cannot read the inputs", found=f"{path}: {error}") from error
    if not isinstance(found, dict):
        raise InputError(
            "cannot read the inputs",
            expected="a .npz file with an array for each input, by name",
            found=f"{path}: one array",
        )
    return found
