"""``ane-passes compare``: two packages side by side."""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape

from lowering.cli.common import MAIN, guarded, json_option, print_json, stdout_console, step

HELP = """Compare two packages: operators, bytes, placement, price, latency, outputs.

Both are run in the interpreter on the same random inputs where their inputs and outputs are the
same. What concerns the Neural Engine is predicted. Works on any OS.

\b
Examples:
  ane-passes compare before.mlpackage after.mlpackage
  ane-passes compare before.mlpackage after.mlpackage --chip M1 --chip M4 --json
  ane-passes compare llm.mlpackage llm.mlpackage --function decode --function prefill

Exit codes: 0 compared, 2 a package or the call needs attention.
"""


@click.command("compare", help=HELP, short_help="Put two packages side by side.")
@click.argument("first", type=click.Path(path_type=Path), metavar="A.mlpackage")
@click.argument("second", type=click.Path(path_type=Path), metavar="B.mlpackage")
@click.option(
    "--chip",
    "chips",
    multiple=True,
    default=("M4",),
    show_default=True,
    help="Chip to predict for, such as M1 or 'A17 Pro'; may be repeated.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random inputs."
)
@click.option(
    "--function",
    "functions",
    multiple=True,
    help="Of packages with several; give it twice for another one of B.",
)
@json_option
@guarded
def compare(
    first: Path,
    second: Path,
    chips: tuple[str, ...],
    seed: int,
    functions: tuple[str, ...],
    as_json: bool,
) -> None:
    """See ``HELP``."""
    if len(functions) > 2:
        raise click.UsageError("--function is of A and of B: give it once or twice.")
    names = (functions or (MAIN,)) * 2
    with step("Comparing"):
        from lowering.ablation.compare import compare as compare_packages

        found = compare_packages(
            first, second, chips=chips, seed=seed, function=(names[0], names[1])
        )
    if as_json:
        print_json(found.to_json())
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for package, name in zip((first, second), names, strict=False):
        label = package.name if name == MAIN else f"{package.name}: {name}"
        table.add_column(escape(label), justify="right")
    for label, *values in found.rows():
        marked = values if values[0] == values[1] else [f"[bold]{value}[/bold]" for value in values]
        table.add_row(escape(label), *marked)
    console = stdout_console()
    console.print(table)
    console.print("\nWhat stands behind a chip is predicted, not measured.")
    for note in found.notes():
        console.print(escape(note))
    if found.output_difference is None:
        console.print("Not run: their inputs or outputs are not the same.")
    for name, value in (found.output_difference or {}).items():
        console.print(escape(f"output {name}: relative L2 difference {value:.1e} (interpreter)"))
