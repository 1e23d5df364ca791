"""``ane-passes optimize``: what the passes do to a model, and why they leave parts alone."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from lowering.cli.common import guarded, json_option, print_json, stdout_console, step
from lowering.cli.load_model import MODEL_HELP, load_target, trust_option
from lowering.cli.pipeline import attention_option, optimized, pipeline_option
from lowering.errors import SaveError

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
@click.argument("target", metavar="MODEL")
@trust_option
@click.option("-o", "--output", metavar="PROGRAM.pt2", help="Save the rewritten program.")
@attention_option
@pipeline_option
@json_option
@guarded
def optimize(
    target: str,
    trust: bool,
    output: str | None,
    attention: str | None,
    pipeline: Path | None,
    as_json: bool,
) -> None:
    """See ``HELP``."""
    with step("Loading the model"):
        loaded = load_target(target, trust)
    model = optimized(loaded, attention, pipeline)
    saved = None if output is None else _save_program(model.program, Path(output))
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


def _save_program(program: Any, path: Path) -> Path:
    """Write a ``.pt2`` file whole or not at all."""
    import torch

    if path.suffix != ".pt2":
        raise SaveError("A program is saved as .pt2", expected="-o NAME.pt2", found=str(path))
    path = path.expanduser().absolute()
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            fresh = Path(folder) / path.name
            torch.export.save(program, fresh)
            os.replace(fresh, path)
    except OSError as error:
        raise SaveError(
            f"The program could not be written: {error.strerror or error}",
            found=str(path),
            hint="choose a folder that exists and can be written",
        ) from error
    return path
