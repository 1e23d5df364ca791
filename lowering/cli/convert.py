"""``ane-passes convert``: from a PyTorch model to a saved package."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from rich.markup import escape

from frontend.model_call import ModelCall
from lowering.cli.arrays import read_arrays
from lowering.cli.calibration import calibration_options, stated_range
from lowering.cli.common import guarded, json_option, print_json, refuse_given, stdout_console, step
from lowering.cli.compute_units import compute_units_option, constant_name
from lowering.cli.core_ai import ASSET_SUFFIX, report_converted
from lowering.cli.deployment_target import deployment_target_option
from lowering.cli.load_composites import load_composites
from lowering.cli.load_model import MODEL_HELP, is_folder, load_model_call, trust_option
from lowering.cli.load_passes import with_pass_option
from lowering.cli.pipeline import (
    attention_option,
    chosen_passes,
    composites_option,
    for_chip_option,
    form_option,
    optimized,
    pipeline_option,
)
from lowering.cli.sizes import sizes_option

if TYPE_CHECKING:
    import coremltools as ct
    from torch import nn

    from passes.base import Pass
    from passes.pipeline import PassReport

    Convertible: TypeAlias = ModelCall | nn.Module

_JUDGING = ("calibration", "input_range")
_PRECISIONS = ("float16", "float32", "safe")

HELP = f"""Convert a PyTorch model to a Core ML package for the Neural Engine.

The model is captured, rewritten by the ANE passes, converted to an ML Program and saved; the
package appears whole or not at all. Works on any OS.

{MODEL_HELP}
\b
Examples:
  ane-passes convert model.py:tiny -o tiny.mlpackage
  ane-passes convert model.py:tiny -o tiny.mlpackage --deployment-target iOS18 --attention native
  ane-passes convert model.py:tiny -o tiny.mlpackage --sizes tokens=64,128
  ane-passes convert model.py:tiny -o tiny.mlpackage --with-pass mine.py:MyPass
  ane-passes convert vit/ -o vit.mlpackage    # what `ane-passes export` wrote
  ane-passes convert model.py:tiny -o tiny.mlpackage --precision safe
  ane-passes convert model.pt2 -o plain.mlpackage --no-optimize --json
  ane-passes convert model.py:tiny -o tiny.aimodel    # Core AI, the extra ane-passes[coreai]

Exit codes: 0 converted, 2 the model or the call needs attention.
"""


@click.command("convert", help=HELP, short_help="Write a Core ML package.")
@click.argument("model_spec", metavar="MODEL")
@trust_option
@click.option("-o", "--output", required=True, metavar="PACKAGE", help="Where to write it.")
@deployment_target_option(". Models that write buffers need iOS18")
@click.option(
    "--precision",
    type=click.Choice(_PRECISIONS),
    default="float16",
    show_default=True,
    help="The Neural Engine computes in float16 only; safe keeps the fewest operators in float32 "
    "that float16 would spoil, and says which.",
)
@compute_units_option("What Core ML may use when the package is loaded here, on a Mac.")
@click.option("--no-optimize", is_flag=True, help="Convert the model as it is, without passes.")
@attention_option
@form_option
@for_chip_option
@pipeline_option
@with_pass_option
@composites_option
@sizes_option
@calibration_options
@click.option(
    "--allow-wide-integers",
    is_flag=True,
    help="Convert though integers go beyond int32; they wrap around in the package.",
)
@json_option
@guarded
def convert(
    model_spec: str,
    trust: bool,
    output: str,
    deployment_target: str,
    precision: str,
    compute_units: str,
    no_optimize: bool,
    attention: str | None,
    forms: tuple[str, ...],
    for_chip: str | None,
    pipeline: Path | None,
    own_passes: tuple[str, ...],
    composites: str | None,
    sizes: tuple[tuple[str, list[int]], ...],
    calibration: tuple[Path, ...],
    input_range: tuple[str, ...],
    allow_wide_integers: bool,
    as_json: bool,
) -> None:
    """See ``HELP``."""
    start = time.perf_counter()
    if no_optimize and (attention or forms or pipeline or own_passes or for_chip):
        raise click.UsageError("With --no-optimize no passes run: leave out what chooses them.")
    chosen = chosen_passes(
        attention, pipeline, forms, own_passes, chip=for_chip, system=deployment_target
    )
    judged = {
        "calibration": [read_arrays(path) for path in calibration],
        "input_ranges": dict(map(stated_range, input_range)),
    }
    if is_folder(model_spec):
        refuse_given(
            ("deployment_target", "precision", "no_optimize", "sizes", "composites"),
            "The folder's contract says this",
        )
        with step("Converting to an ML Program"):
            made = _of_folder(
                model_spec, trust, chosen, compute_units, allow_wide_integers, **judged
            )
            path = _saved(made, output)
        _report(made, path, (), time.perf_counter() - start, as_json)
        return
    is_asset = Path(output).suffix == ASSET_SUFFIX
    if is_asset:
        refuse_given(
            (
                "deployment_target",
                "compute_units",
                "sizes",
                "composites",
                "calibration",
                "input_range",
            ),
            "Core AI has nothing of this kind",
        )
    with step("Loading the model"):
        lowerings = () if composites is None else load_composites(composites)
        loaded = load_model_call(model_spec, trust)
    model: Any = loaded
    if not no_optimize:
        model = optimized(loaded, chosen)
    if is_asset:
        _to_core_ai(model, output, precision, allow_wide_integers, start, as_json)
        return
    with step("Converting to an ML Program"):
        mlmodel = _converted(
            model,
            deployment_target,
            precision,
            compute_units,
            composites=lowerings,
            sizes=dict(sizes) or None,
            allow_wide_integers=allow_wide_integers,
            **judged,
        )
    with step("Saving"):
        path = _saved(mlmodel, output)
    reports = getattr(model, "reports", ())
    _report(mlmodel, path, reports, time.perf_counter() - start, as_json)


def _to_core_ai(
    model: Convertible, output: str, precision: str, wide: bool, start: float, as_json: bool
) -> None:
    with step("Converting to Core AI"):
        from lowering.core_ai.converter import convert_to_core_ai

        options: dict[str, Any] = {"precision": precision, "allow_wide_integers": wide}
        made = convert_to_core_ai(**_called(model), **options)
        path = made.save(output)
    seconds = time.perf_counter() - start
    report_converted(made, path, getattr(model, "reports", ()), seconds, as_json)


def _saved(mlmodel: object, output: str) -> Path:
    from lowering.package.saving import save

    return save(mlmodel, output)


def _of_folder(
    model_spec: str,
    trust: bool,
    pipeline: Sequence[Pass],
    compute_units: str,
    wide: bool,
    **judged: object,
) -> object:
    import coremltools as ct

    from lowering.contract.converting import convert_folder
    from lowering.contract.folder import open_folder

    make: Callable[..., object] = convert_folder
    return make(
        open_folder(model_spec, trust=trust),
        pipeline=pipeline,
        compute_units=ct.ComputeUnit[constant_name(compute_units)],
        skip_model_load=True,
        allow_wide_integers=wide,
        **judged,
    )


def _converted(
    model: Convertible, deployment_target: str, precision: str, compute_units: str, **more: object
) -> object:
    import coremltools as ct

    from lowering.precision.safe import convert_in as convert_program

    options: dict[str, Any] = {
        "minimum_deployment_target": ct.target[deployment_target],
        "precision": precision,
        "compute_units": ct.ComputeUnit[constant_name(compute_units)],
        "skip_model_load": True,  # the command saves the package and does not run it
        **more,
    }
    return convert_program(**_called(model), **options)


def _called(model: Convertible) -> dict[str, Any]:
    """The arguments of a conversion that say what is converted."""
    if not isinstance(model, ModelCall):
        return {"model": model}
    return {
        "model": model.model,
        "example_inputs": model.args,
        "kwargs": model.kwargs,
        "dynamic_shapes": model.dynamic_shapes,
    }


def _report(
    mlmodel: ct.models.MLModel,
    path: Path,
    reports: Sequence[PassReport],
    seconds: float,
    as_json: bool,
) -> None:
    from lowering.cli.summary import package_json, package_table, pins_table, reports_table
    from lowering.precision.pins import PinReport

    package = {**package_json(mlmodel, path), "seconds": round(seconds, 2)}
    pinned = PinReport.from_metadata(mlmodel.user_defined_metadata)
    if pinned is not None:
        package["precision"] = pinned.to_json()
    if as_json:
        print_json({**package, "passes": [report.to_json() for report in reports]})
        return
    console = stdout_console()
    if reports:
        console.print(reports_table(reports))
        console.print()
    console.print(package_table(package))
    if pinned is not None:
        console.print()
        console.print(pins_table(pinned))
    console.print(f"\nsaved {escape(str(path))} in {seconds:.1f} s")
