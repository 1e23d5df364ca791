"""``ane-passes compress``: a package with smaller weights, or what each way of storing costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lowering.cli.arrays import inputs_option, read_arrays
from lowering.cli.common import guarded, json_option, print_json, refuse_given, stdout_console, step
from lowering.cli.load_composites import load_composites
from lowering.cli.load_model import MODEL_HELP, is_folder, load_model_call, trust_option
from lowering.cli.pipeline import composites_option
from lowering.cli.verify import METRIC_NAMES

if TYPE_CHECKING:
    from lowering.compression.ladder_result import Ladder
    from lowering.contract.folder import ModelFolder

HELP = f"""Store a package's weights in fewer bits, and prove each from the file that is written.

\b
Rungs:
  int8                   integers times a scale for each output channel: half the size
  pal8 pal6 pal4 pal3 pal2 pal1
                         places of so many bits in one table of numbers for each weight
  pal6-grouped pal4-grouped
                         a table for every 16 channels (iOS 18); pal4-grouped8: for every 8
  int4-block             4-bit integers, a scale for every 32 weights (iOS 18); predicted to leave
                         the Neural Engine
  sparse                 the smaller half becomes zero and is not stored; sparse75: three quarters
  joint                  sparse, and the rest in a table of 4 bits (iOS 18)
  mixed                  as many bits as each weight needs under a --budget of bytes, error or
                         --metric
  w8a8                   int8, and integers for activations (iOS 17), calibrated on --inputs

With --ladder and the model, every rung is made and compared: size, error, task metric, and the
price and latency that are predicted. A --budget chooses one, and -o writes it. PACKAGE may be a
folder that `ane-passes export` wrote: it is converted first, and --ladder needs no MODEL then.

{MODEL_HELP}
\b
Examples:
  ane-passes compress net.mlpackage --rung pal6 -o small.mlpackage
  ane-passes compress net.mlpackage --rung mixed --budget 12MB --inputs calls.npz
  ane-passes compress net.mlpackage model.py:net --ladder
  ane-passes compress net.mlpackage model.py:net --ladder --budget 12MB -o small.mlpackage
  ane-passes compress net.mlpackage vit/ --ladder --rungs int8,pal6 --budget metric=0.99 --json
  ane-passes compress vit/ --rung int8 -o small.mlpackage

Exit codes: 0 done, 2 the package or the call needs attention.
"""


@click.command("compress", help=HELP, short_help="Store weights in fewer bits, proven.")
@click.argument("package", type=click.Path(path_type=Path))
@click.argument("model_spec", metavar="[MODEL]", required=False)
@click.option("--rung", metavar="NAME", help="How to store the weights, see above.")
@click.option("--ladder", "climbs", is_flag=True, help="Compare rungs; needs MODEL.")
@click.option("--rungs", metavar="A,B", help="Of --ladder: which, in the order of the table.")
@click.option(
    "--metric",
    type=click.Choice(METRIC_NAMES),
    default="cosine",
    show_default=True,
    help="Of --ladder and mixed: how far both agree as the task sees it.",
)
@click.option(
    "--budget",
    help="Of --ladder: 12MB takes the most exact rung of at most so many bytes; error=0.05 or "
    "metric=0.99 the smallest that is so exact. Of mixed likewise, against PACKAGE itself.",
)
@click.option("--chip", default="M4", show_default=True, help="Of --ladder: to predict for.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The package to write; with --rung NAME-RUNG.mlpackage by default.",
)
@trust_option
@inputs_option
@composites_option
@json_option
@guarded
def compress(
    package: Path,
    model_spec: str | None,
    rung: str | None,
    climbs: bool,
    rungs: str | None,
    metric: str,
    budget: str | None,
    chip: str,
    output: Path | None,
    trust: bool,
    inputs: Path | None,
    composites: str | None,
    as_json: bool,
) -> None:
    """See ``HELP``."""
    if climbs == (rung is not None):
        raise click.UsageError("Give --rung NAME, or --ladder with a MODEL.")
    if rung is not None:
        refuse_given(("rungs", "chip"), "That is of --ladder")
        of_metric = (budget or "").strip().lower().startswith("metric")
        if not of_metric:
            refuse_given(("metric",), "That is of --ladder, or of a --budget metric=0.99")
        calls = () if inputs is None else (read_arrays(inputs),)
        with step("Compressing and decoding"):
            from lowering.contract.verbs import compress as compress_package

            small = compress_package(
                _opened(package, trust),
                rung,
                output,
                budget=budget,
                inputs=calls,
                metric=metric if of_metric else None,
            )
        if as_json:
            print_json(small.to_json())
        else:
            stdout_console().print(small)
            stdout_console().print(f"saved {small.package}", markup=False)
        return
    if model_spec is None and not is_folder(str(package)):
        raise click.UsageError("--ladder needs the MODEL that the package was made from.")
    if composites is not None:
        load_composites(composites)
    with step("Climbing the ladder"):
        found = _ladder(
            package,
            model_spec,
            trust,
            rungs,
            metric=metric,
            budget=budget,
            chip=chip,
            out=output,
            arrays=None if inputs is None else read_arrays(inputs),
        )
    if as_json:
        print_json(found.to_json())
    else:
        stdout_console().print(found)


def _opened(path: Path, trust: bool) -> Path | ModelFolder:
    """``path``, or the folder of a contract that stands there."""
    if not is_folder(str(path)):
        return path
    from lowering.contract.folder import open_folder

    return open_folder(path, trust=trust)


def _ladder(
    package: Path,
    model_spec: str | None,
    trust: bool,
    rungs: str | None,
    *,
    arrays: dict[str, object] | None,
    metric: str,
    budget: str | None,
    chip: str,
    out: Path | None,
) -> Ladder:
    from lowering.compression.ladder import RUNGS
    from lowering.contract.verbs import ladder
    from lowering.verification import Original

    model: Original | Path | ModelFolder | None = None
    inputs: dict[str, object] | None = arrays
    if model_spec is not None:
        model = _opened(Path(model_spec), trust)
    if model_spec is not None and isinstance(model, Path):
        loaded = load_model_call(model_spec, trust)
        original = Original.of(
            loaded.model,
            loaded.args,
            loaded.kwargs,
            pipeline=(),
            dynamic_shapes=loaded.dynamic_shapes,
        )
        model, inputs = original.with_inputs(arrays or {}), None
    return ladder(
        _opened(package, trust),
        model,
        inputs,
        rungs=RUNGS if rungs is None else [name.strip() for name in rungs.split(",")],
        metric=metric,
        budget=budget,
        chip=chip,
        out=out,
    )
