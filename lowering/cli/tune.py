"""``ane-passes tune``: the forms that are predicted to suit a model best."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from lowering.cli.ablate import calls_of
from lowering.cli.common import guarded, json_option, print_json, stdout_console, step
from lowering.cli.load_model import MODEL_HELP, trust_option
from lowering.cli.load_passes import with_pass_option
from lowering.cli.pipeline import (
    chosen_passes,
    composite_arguments,
    composites_option,
    optimized,
    pipeline_option,
    write_pipeline,
)
from lowering.cli.sweep import sweep_options, sweeping
from lowering.cli.verify import METRIC_NAMES
from lowering.errors import SaveError

if TYPE_CHECKING:
    from frontend.model_call import ModelCall
    from lowering.ablation.sweep import Settings
    from lowering.ablation.tune import By, Tuning

HELP = f"""Choose the forms of attention, norms, linears and layout for one model.

Tries one change of the default at a time, for the whole model and then for sites of one size,
goes on from the best, and says why it chose what it chose; that may be the default. The
dispatcher's price and the latency are predicted, not measured. Variants whose fp16 error is above
the bound are left out.

{MODEL_HELP}
\b
Examples:
  ane-passes tune model.py:tiny --deployment-target iOS18 -o tiny.mlpackage
  ane-passes tune model.py:tiny --chip 'A17 Pro' --by latency
  ane-passes tune model.py:tiny -o tiny.json       # for `convert --pipeline tiny.json`

Exit codes: 0 done, 2 the model or the call needs attention.
"""


@click.command("tune", help=HELP, short_help="Choose the forms that suit a model best.")
@click.argument("model_spec", metavar="MODEL")
@trust_option
@click.option(
    "--by",
    type=click.Choice(("price", "latency")),
    default="price",
    show_default=True,
    help="What to minimise: the estimate that Core ML's dispatcher decides by, or the time that "
    "our latency model predicts.",
)
@click.option(
    "--bound",
    type=click.FloatRange(min=0, min_open=True),
    help="Largest relative L2 error of the package. Default: what `verify` allows.",
)
@click.option(
    "--metric",
    type=click.Choice(METRIC_NAMES),
    help="How far both agree as the task sees it; variants that agree less are left out.",
)
@click.option(
    "--at-least",
    type=click.FloatRange(0, 1),
    help="What the metric must reach; 0.99 by default.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Save the chosen package (.mlpackage) or its passes (.json).",
)
@pipeline_option
@with_pass_option
@composites_option
@sweep_options
@json_option
@guarded
def tune(
    model_spec: str,
    trust: bool,
    by: By,
    bound: float | None,
    metric: str | None,
    at_least: float | None,
    output: Path | None,
    pipeline: Path | None,
    own_passes: tuple[str, ...],
    composites: str | None,
    chips: tuple[str, ...],
    deployment_target: str,
    as_json: bool,
    **where: Any,
) -> None:
    """See ``HELP``."""
    if output is not None:
        _check_output(output)
    with step("Importing"):
        from lowering.ablation.sweep import Settings
        from lowering.ablation.tune import tune_model
    lowerings = composite_arguments(composites)
    steps = chosen_passes(None, pipeline, own_passes=own_passes)
    (call,) = calls_of((model_spec,), trust)
    with sweeping(**where) as options:
        settings = Settings(chips, deployment_target, metric=metric, **lowerings, **options)
        found = tune_model(call, settings, pipeline=steps, by=by, bound=bound, at_least=at_least)
    saved = None if output is None else _save(found, call, settings, output)
    if as_json:
        print_json({**found.to_json(), "saved": None if saved is None else str(saved)})
        return
    from lowering.ablation.tables import ablation_text

    console = stdout_console()
    for part in ablation_text(found.ablation):
        console.print(part)
    console.print()
    for reason in found.reasons:
        console.print(escape(reason))
    console.print(f"[bold]chosen: {escape(found.chosen)}[/bold]")
    if saved is not None:
        console.print(f"saved {escape(str(saved))}")


def _check_output(output: Path) -> None:
    """Before minutes of work, rather than after."""
    if output.suffix not in (".json", ".mlpackage") or not output.expanduser().parent.is_dir():
        raise SaveError(
            "the choice cannot be saved there",
            expected="FILE.mlpackage or FILE.json in a folder that exists",
            found=str(output),
        )


def _save(found: Tuning, call: ModelCall, settings: Settings, output: Path) -> Path:
    """The chosen package, or its passes."""
    from lowering.package.saving import save

    if output.suffix == ".json":
        return write_pipeline(found.pipeline, output)
    with step("Saving the chosen package"):
        import coremltools as ct

        from lowering.conversion.converter import convert

        mlmodel = convert(
            optimized(call, found.pipeline),
            composites=settings.composites() if settings.composites is not None else (),
            minimum_deployment_target=ct.target[settings.deployment_target],
            skip_model_load=True,
        )
        return save(mlmodel, output)
