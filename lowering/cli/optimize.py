"""``ane-passes optimize``: what the passes do to a model, and why they leave parts alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.export import ExportedProgram

from pathlib import Path

import click
from rich.markup import escape

from lowering.cli.common import guarded, json_option, print_json, stdout_console, step
from lowering.cli.load_model import MODEL_HELP, load_model_call, trust_option
from lowering.cli.load_passes import with_pass_option
from lowering.cli.pipeline import (
    attention_option,
    chosen_passes,
    for_chip_option,
    form_option,
    optimized,
    pipeline_option,
)

HELP = f"""Rewrite a PyTorch model for the Neural Engine and report every pass.

Prints one line per pass and the reason for each refusal. With -o the rewritten program is saved;
it runs in torch like the original, and `ane-passes convert` takes it as MODEL.

{MODEL_HELP}
\b
Examples:
  ane-passes optimize model.py:tiny
  ane-passes optimize model.py:tiny --attention batched -o tiny.pt2
  ane-passes optimize model.pt2 --json

Exit codes: 0 optimized, 2 the model or the call needs attention.
"""


@click.command("optimize", help=HELP, short_help="Rewrite a model and report every pass.")
@click.argument("model_spec", metavar="MODEL")
@trust_option
@click.option("-o", "--output", metavar="PROGRAM.pt2", help="Save the rewritten program.")
@attention_option
@form_option
@for_chip_option
@pipeline_option
@with_pass_option
@json_option
@guarded
def optimize(
    model_spec: str,
    trust: bool,
    output: str | None,
    attention: str | None,
    forms: tuple[str, ...],
    for_chip: str | None,
    pipeline: Path | None,
    own_passes: tuple[str, ...],
    as_json: bool,
) -> None:
    """See ``HELP``."""
    with step("Loading the model"):
        loaded = load_model_call(model_spec, trust)
    model = optimized(loaded, chosen_passes(attention, pipeline, forms, own_passes, chip=for_chip))
    saved = None if output is None else _saved(model.program, output)
    if as_json:
        print_json(
            {
                "program": None if saved is None else str(saved),
                "passes": [report.to_json() for report in model.reports],
            }
        )
        return
    from lowering.cli.summary import reasons, reports_table

    console = stdout_console()
    console.print(reports_table(model.reports))
    sentences = [*(note for r in model.reports for note in r.notes), *reasons(model.reports)]
    if sentences:
        console.print()
    for sentence in sentences:
        console.print(escape(sentence))
    if saved is not None:
        console.print(f"\nsaved {escape(str(saved))}")


def _saved(program: ExportedProgram, output: str) -> Path:
    from lowering.package.program import save_program

    return save_program(program, output)
