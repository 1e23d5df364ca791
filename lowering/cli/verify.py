"""``ane-passes verify``: hold a package against the model it was made from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from frontend.model_call import ModelCall
from lowering.cli.arrays import inputs_option, read_arrays
from lowering.cli.common import (
    MAIN,
    function_option,
    guarded,
    json_option,
    refuse_given,
    step,
)
from lowering.cli.core_ai import ASSET_SUFFIX
from lowering.cli.load_composites import load_composites
from lowering.cli.load_model import MODEL_HELP, is_folder, load_decoder, trust_option
from lowering.cli.load_passes import known_passes, with_pass_option
from lowering.cli.pipeline import composites_option
from lowering.cli.probes import probed, probed_folder, probes_options, say
from lowering.cli.run_as import run_as_option

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from lowering.verification import Original, Thresholds, Verification
    from passes.base import Pass

# The names of the metrics, so that --help needs no imports; a test holds them to the table.
METRIC_NAMES = ("top1", "cosine", "boxes", "mask", "wer")

HELP = f"""Run a package on any OS and compare its outputs with the original's.

Packages with fp16 values are measured against torch: the error of the original itself, run in half
precision, times three is allowed. Where an output differs by more, the first op that goes wrong is
named with its module, line and passes. The passes that the package was made with are read from it.
An .aimodel runs in Apple's own runtime for Core AI. A package of `export-llm` is fed known tokens,
function after function, each on the cache that the others left.

{MODEL_HELP}
\b
Examples:
  ane-passes verify tiny.mlpackage model.py:tiny
  ane-passes verify tiny.mlpackage model.py:tiny --inputs images.npz --threshold 0.01
  ane-passes verify tiny.mlpackage model.py:tiny --with-pass mine.py:MyPass
  ane-passes verify vit.mlpackage vit/ --pictures cat.png --metric top1
  ane-passes verify asr.mlpackage asr/ --sounds talk.wav --metric wer
  ane-passes verify tiny.mlpackage model.py:tiny --probes --onnx -o results.json
  ane-passes verify tiny.mlpackage model.pt2 --json
  ane-passes verify decoder.mlpackage model.py:decoder --steps 64

Exit codes: 0 the package agrees, 1 it does not, 2 the package or the call needs attention.
"""


@click.command("verify", help=HELP, short_help="Hold a package against its original.")
@click.argument("package", type=click.Path(path_type=Path))
@click.argument("model_spec", metavar="MODEL")
@trust_option
@inputs_option
@click.option(
    "--threshold",
    type=click.FloatRange(min=0, min_open=True),
    help="Largest relative L2 error of an output, instead of 3 x torch's error in half precision "
    "(fp16) or 1e-4 (fp32).",
)
@run_as_option
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Calls one after the other on the same state, on inputs that differ; 1 by default, of a "
    "package for generation three for each function.",
)
@function_option
@click.option(
    "--pictures",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A picture, or a folder of them, for MODELs that `ane-passes export` wrote.",
)
@click.option(
    "--sounds",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="A WAV file, or a folder of them, for MODELs that `ane-passes export` wrote.",
)
@click.option(
    "--metric",
    type=click.Choice(METRIC_NAMES),
    help="How far both agree as the task sees it, beside the errors.",
)
@click.option(
    "--at-least",
    type=click.FloatRange(0, 1),
    help="What the metric's mean must reach; 0.99 by default.",
)
@probes_options
@click.option("--no-locate", is_flag=True, help="Compare outputs only; do not look for the op.")
@with_pass_option
@composites_option
@json_option
@guarded
def verify(
    package: Path,
    model_spec: str,
    trust: bool,
    inputs: Path | None,
    threshold: float | None,
    precision: str,
    steps: int | None,
    function: str,
    pictures: tuple[Path, ...],
    sounds: tuple[Path, ...],
    metric: str | None,
    at_least: float | None,
    probes: bool,
    onnx: bool,
    output: Path | None,
    no_locate: bool,
    own_passes: tuple[str, ...],
    composites: str | None,
    as_json: bool,
) -> None:
    """See :data:`HELP`."""
    if onnx and not probes:
        raise click.UsageError("--onnx is of --probes.")
    if output is not None:
        from lowering.verification.results_file import check_results_path

        check_results_path(output)
    start = time.perf_counter()
    if is_folder(model_spec):
        if steps is not None:
            raise click.UsageError("--steps is for models; a folder's pictures are its steps.")
        if function != MAIN:
            raise click.UsageError("--function is for models; a folder's package has one.")
        found = _against_folder(
            package,
            model_spec,
            trust,
            pictures=pictures,
            sounds=sounds,
            metric=metric,
            at_least=at_least,
            precision=precision,
            thresholds=_thresholds(threshold),
            known_passes=known_passes(own_passes),
            locate=not no_locate,
            inputs=None if inputs is None else read_arrays(inputs),
        )
        rows = probed_folder(package, model_spec, trust, onnx) if probes else None
        say(package, found, as_json, rows=rows, output=output, seconds=time.perf_counter() - start)
        return
    if pictures or sounds:
        name = "--pictures" if pictures else "--sounds"
        raise click.UsageError(f"{name} needs a folder that `ane-passes export` wrote.")
    with step("Loading the model"):
        if composites is not None:
            load_composites(composites)  # defines the operators of a saved program
        known = known_passes(own_passes)
        loaded = load_decoder(model_spec, trust)
        from lowering.generation.contract import is_decoder
    against: nn.Module | ExportedProgram | Original = loaded.model
    if package.suffix == ASSET_SUFFIX:
        refuse_given(("probes", "output", "function"), "Apple's runtime shows outputs alone")
        asset = _in_core_ai(package, loaded, inputs, threshold, steps or 1, not no_locate)
        say(package, asset, as_json)
        return
    if is_decoder(package, against):
        others = ("inputs", "metric", "at_least", "probes")
        refuse_given(others, "a package for generation is fed tokens and compared by their logits")
        with step("Running both"):
            from lowering.generation.verifying import verify_decoder

            found = verify_decoder(
                package,
                cast("nn.Module", against),
                steps=steps,
                function=function,
                precision=precision,
                thresholds=_thresholds(threshold),
                known_passes=known,
                locate=not no_locate,
            )
        say(package, found, as_json, output=output, seconds=time.perf_counter() - start)
        return
    if inputs is not None:
        with step("Repeating the passes"):
            against = _on(read_arrays(inputs), package, loaded, known, function)
    with step("Running both"):
        from lowering.verification import verify as verify_package
        from lowering.verification.metrics import AT_LEAST

        found = verify_package(
            package,
            against,
            loaded.args,
            loaded.kwargs,
            known_passes=known,
            dynamic_shapes=loaded.dynamic_shapes,
            thresholds=_thresholds(threshold),
            precision=precision,
            locate=not no_locate,
            steps=1 if steps is None else steps,
            function=function,
            metric=metric,
            at_least=AT_LEAST if at_least is None else at_least,
        )
    if probes and function != MAIN:
        raise click.UsageError("--probes is of a package's default function: leave out --function.")
    rows = probed(package, against, loaded.args, loaded.kwargs, onnx) if probes else None
    say(package, found, as_json, rows=rows, output=output, seconds=time.perf_counter() - start)


def _in_core_ai(
    package: Path,
    loaded: ModelCall,
    inputs: Path | None,
    threshold: float | None,
    steps: int,
    locate: bool,
) -> Verification:
    refuse_given(("precision", "metric", "at_least"), "Apple's runtime runs an asset as it is")
    with step("Running both"):
        from lowering.core_ai.verifier import verify_core_ai

        return verify_core_ai(
            package,
            loaded.model,
            loaded.args if inputs is None else read_arrays(inputs),
            loaded.kwargs,
            thresholds=_thresholds(threshold),
            steps=steps,
            dynamic_shapes=loaded.dynamic_shapes,
            locate=locate,
        )


def _on(
    arrays: Mapping[str, object],
    package: Path,
    loaded: ModelCall,
    known: Sequence[type[Pass]],
    function: str,
) -> Original:
    """The original with ``arrays`` in the place of its own inputs of these names."""
    from lowering.reference import load
    from lowering.verification import Original

    return Original.of(
        loaded.model,
        loaded.args,
        loaded.kwargs,
        metadata=load(package, function=function).metadata,
        known_passes=known,
        dynamic_shapes=loaded.dynamic_shapes,
    ).with_inputs(arrays)


def _against_folder(package: Path, model_spec: str, trust: bool, **options: object) -> Verification:
    with step("Running both"):
        from lowering.contract.folder import open_folder
        from lowering.contract.verifying import verify_folder

        call: Callable[..., Verification] = verify_folder
        return call(package, open_folder(model_spec, trust=trust), **options)


def _thresholds(threshold: float | None) -> Thresholds | None:
    from lowering.verification import Thresholds

    if threshold is None:
        return None
    return Thresholds(
        fp32=threshold,
        fp16_factor=0.0,
        fp16_floor=threshold,
        fp16_ceiling=threshold,
        fp16_alone=threshold,
    )
