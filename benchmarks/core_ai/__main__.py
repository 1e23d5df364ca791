"""Models of the zoo through Core AI and Apple's own runtime, with our passes and without.

    python -m benchmarks.core_ai [NAMES]... [--family FAMILY] [--way WAY] [--brief] [--json]

Needs the extra ``ane-passes[coreai]``. *Ours*: rewritten by ``optimize_for_ane``, made by
``lowering.convert(..., format="aimodel")``. *Plain*: ``torch.export``, coreai-torch's own table of
decompositions, its own converter. Each runs in Apple's runtime for Linux on inputs that neither has
seen, and is right within a relative L2 error of 1e-3 of the module (float16: 5e-2); otherwise it is
wrong, refused with one clear error, or broken: an error of another kind, or no end.

``--way`` is ``float32``, ``float16``, or ``native``: ours with ``attention="native"``, in float32.
Results are kept in .cache/core_ai and measured again when the sources change.

Exit codes: 0 at least 90 % of the models are right with our passes, 1 fewer.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.core_ai.measure import WAYS
from benchmarks.core_ai.run import run
from benchmarks.core_ai.sides import BROKEN, REFUSED, RIGHT_KIND, WRONG
from benchmarks.zoo.catalog import entries
from lowering.cli.common import stdout_console

FAMILIES = ("plain", "text", "vision", "speech")
KINDS = (RIGHT_KIND, WRONG, REFUSED, BROKEN)
SIDES = ("ours", "plain")
ASKED = 0.9

Results = Mapping[str, dict[str, Any]]


@click.command(help=__doc__)
@click.argument("names", nargs=-1)
@click.option("--family", "families", type=click.Choice(FAMILIES), multiple=True)
@click.option("--way", "ways", type=click.Choice(WAYS), multiple=True, default=("float32",))
@click.option("--resume", is_flag=True, help="Keep results of earlier sources too.")
@click.option("--brief", is_flag=True, help="Counts alone, and what is not right with our passes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def main(
    names: tuple[str, ...],
    families: tuple[str, ...],
    ways: tuple[str, ...],
    resume: bool,
    brief: bool,
    as_json: bool,
) -> None:
    """See the module."""
    known = entries()
    wanted = families or FAMILIES
    chosen = list(names) or [name for name, (family, _) in known.items() if family in wanted]
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise click.UsageError(f"no such model: {', '.join(unknown)}")
    progress = Console(stderr=True)

    def done(name: str, found: dict[str, Any]) -> None:
        said = "; ".join(
            f"{way} {side} {one[side]['kind']} {one[side]['reason']}".strip()
            for way, one in found.items()
            for side in SIDES
            if side in one
        )
        progress.print(f"{name}: {said}", markup=False, highlight=False, soft_wrap=True)

    results = run(chosen, ways, resume=resume, done=done)
    if as_json:
        print(json.dumps(results, indent=1))
    else:
        for way in ways:
            _print(results, way, brief)
    right = all(
        sum(found[way]["ours"]["kind"] == RIGHT_KIND for found in results.values())
        >= ASKED * len(results)
        for way in ways
    )
    sys.exit(0 if right else 1)


def _print(results: Results, way: str, brief: bool) -> None:
    output = stdout_console()
    output.print(f"{way}:", highlight=False)
    output.print(by_family(results, way))
    if not brief:
        output.print(by_model(results, way))
    for name, found in results.items():
        if found[way]["ours"]["kind"] != RIGHT_KIND:
            output.print(
                f"{name}: {found[way]['ours']['reason']}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def by_family(results: Results, way: str) -> Table:
    """Models of each family by what became of them on each side."""
    table = Table("family", box=None)
    for heading in ("models", "ours:", *KINDS[1:], "plain:", *KINDS[1:]):
        shown = f"{heading} right" if heading.endswith(":") else heading
        table.add_column(shown, justify="right")
    known = entries()
    rows = {name: known[name][0] for name in results}
    for family in (*dict.fromkeys(rows.values()), "all"):
        members = [results[name][way] for name in rows if family in ("all", rows[name])]
        cells = []
        for side in SIDES:
            counts = Counter(one[side]["kind"] for one in members if side in one)
            cells += [str(counts[kind]) for kind in KINDS]
        table.add_row(family, str(len(members)), *cells)
    return table


def by_model(results: Results, way: str) -> Table:
    """Each model: what became of it, error and operators on each side."""
    table = Table("model", "ours", "error", "ops", "plain", "error", "ops", box=None)
    for name, found in results.items():
        cells = []
        for side in SIDES:
            one = found[way].get(side, {"kind": "", "error": None, "ops": None})
            error, ops = one["error"], one["ops"]
            cells += [one["kind"], "" if error is None else f"{error:.1e}", str(ops or "")]
        table.add_row(name, *cells)
    return table


if __name__ == "__main__":
    main()
