"""``--run-as``: how the interpreter computes what a package declares to be float16."""

from __future__ import annotations

import click

from lowering.cli.common import Command
from lowering.cli.renamed import or_old, renamed_option


def run_as_option(command: Command) -> Command:
    """The option, as the argument ``precision`` (see ``lowering.Precision``)."""
    option = click.option(
        "--run-as",
        "precision",
        type=click.Choice(("fp16", "strict", "fp32")),
        default="fp16",
        show_default=True,
        callback=or_old,
        help="fp16: round each op's result once; strict: round sums inside an op as well; "
        "fp32: ignore declared fp16.",
    )
    # What a package stores is `convert --precision`.
    return option(renamed_option("--precision", "--run-as")(command))
