"""``ane-passes ablate``: what each pass changes, and what it is predicted to win."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from frontend.model_call import ModelCall
from lowering.cli.common import guarded, json_option, print_json, stdout_console, step
from lowering.cli.load_model import MODEL_HELP, load_model_call, trust_option
from lowering.cli.load_passes import with_pass_option
from lowering.cli.pipeline import (
    attention_option,
    chosen_passes,
    composite_arguments,
    composites_option,
    form_option,
    pipeline_option,
)
from lowering.cli.sweep import sweep_options, sweeping

HELP = f"""Compare the passes: all, none, each left out, each alone, the first few, other forms.

Each variant is converted, planned for the chip, and run in the interpreter against the original;
variants that give the same program are measured once. What concerns the Neural Engine is
predicted. Finished work is kept: an interrupted sweep goes on where it stopped, and a second run
does only what is missing. Random numbers are seeded before MODEL is called.

{MODEL_HELP}
\b
Examples:
  ane-passes ablate model.py:tiny
  ane-passes ablate model.py:tiny --deployment-target iOS18 --chip M4 --chip 'A17 Pro' --format md
  ane-passes ablate model.py:tiny model.py:small --passes split_attention,assign_layout
  ane-passes ablate model.py:tiny --json > ablation.json    # for `report --ablation`

With --json, one MODEL gives one document, several a list.

Exit codes: 0 done, 2 the model or the call needs attention.
"""
_FORMATS = ("table", "md", "csv", "json")


@click.command("ablate", help=HELP, short_help="Compare the passes: all, none, each left out.")
@click.argument("model_specs", nargs=-1, required=True, metavar="MODEL...")
@trust_option
@click.option(
    "--passes",
    "only",
    metavar="NAME,NAME",
    help="Passes to leave out and to try alone; all by default.",
)
@click.option(
    "--format", "output_format", type=click.Choice(_FORMATS), default="table", show_default=True
)
@attention_option
@form_option
@pipeline_option
@with_pass_option
@composites_option
@sweep_options
@json_option
@guarded
def ablate(
    model_specs: tuple[str, ...],
    trust: bool,
    only: str | None,
    output_format: str,
    attention: str | None,
    forms: tuple[str, ...],
    pipeline: Path | None,
    own_passes: tuple[str, ...],
    composites: str | None,
    chips: tuple[str, ...],
    deployment_target: str,
    as_json: bool,
    **where: Any,
) -> None:
    """See ``HELP``."""
    with step("Importing"):
        from lowering.ablation.sweep import Settings, ablate_models
    composite_options = composite_arguments(composites)
    steps = chosen_passes(attention, pipeline, forms, own_passes)
    calls = calls_of(model_specs, trust)
    names = [name.strip() for name in only.split(",")] if only else ()
    with sweeping(**where) as options:
        settings = Settings(chips, deployment_target, **composite_options, **options)
        found = ablate_models(calls, settings, pipeline=steps, only=names)
    output_format = "json" if as_json else output_format
    if output_format == "json":
        documents = [entry.to_json() for entry in found]
        print_json(documents[0] if len(documents) == 1 else documents)
        return
    from lowering.ablation import tables

    if output_format == "csv":
        click.echo(tables.ablation_csv(found), nl=False)
    elif output_format == "md":
        click.echo("\n\n".join(tables.ablation_markdown(entry) for entry in found))
    else:
        console = stdout_console()
        for entry in found:
            for part in tables.ablation_text(entry):
                console.print(part)


def calls_of(model_specs: Sequence[str], trust: bool) -> list[ModelCall]:
    """The models of a command, under names that differ, their weights the same in each run."""
    import torch

    calls: list[ModelCall] = []
    for spec in model_specs:
        with step(f"Loading {spec}"):
            torch.manual_seed(0)
            found = load_model_call(spec, trust)
        taken = found.name in [call.name for call in calls]
        calls.append(replace(found, name=spec) if taken else found)
    return calls
