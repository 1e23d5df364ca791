"""Gives the command line what is hostile or unlucky, and looks at what it does.

Generated packages, saved programs, models and calls, each given to a verb of ``ane-passes`` in a
process of its own with limits on time and memory. Whatever comes: no traceback, no crash, no hang,
no file outside of the output, nothing half-written or left behind, no code of a file run, and what
is refused is refused with one message that names the file and the next step.

Exit codes: 0 no rule was broken, 1 one was.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

import frontend
import lowering
import passes
from benchmarks.hostile import calls, damage, given, models, mutate, programs, sound
from benchmarks.hostile.case import Case
from benchmarks.hostile.judge import violations
from benchmarks.hostile.run import Ran, apart, run
from lowering.cli.common import (
    EXIT_CHECK_FAILED,
    guarded,
    json_option,
    print_json,
    stdout_console,
)
from lowering.support.quiet import quiet_coremltools

_REFUSED = 2


@click.command(help=__doc__)
@click.option("--seed", default=0, show_default=True, help="Of everything that is drawn.")
@click.option("--jobs", default=2, show_default=True, help="Cases at a time.")
@click.option("--only", default="", help="Only cases whose title this regular expression finds.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write JSON there too.")
@json_option
@guarded
def main(seed: int, jobs: int, only: str, output: Path | None, as_json: bool) -> None:
    """Runs the campaign and prints what was found."""
    torch.set_num_threads(1)
    start = time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="hostile-"))
    try:
        with quiet_coremltools():
            _warm()
            chosen = [
                case for case in all_cases(root / "sound", seed) if re.search(only, case.title)
            ]
        ran = _watched(chosen, root / "cases", jobs)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    found = [(one, list(violations(one))) for one in ran]
    document = _document(found, seed, time.monotonic() - start)
    if output is not None:
        import json

        output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json(document)
    else:
        _print(found, seed, time.monotonic() - start)
    if any(broken for _, broken in found):
        raise SystemExit(EXIT_CHECK_FAILED)


def all_cases(folder: Path, seed: int) -> list[Case]:
    """The cases of the campaign; the same ones for the same ``seed``.

    Args:
        folder: where the sound packages are written that cases are made from.
        seed: of everything that is drawn.
    """
    folder.mkdir(parents=True)
    packages, program = sound.packages(folder), folder / "model.pt2"

    def build() -> None:
        sound.build(folder)
        programs.build(program)

    apart(build)
    rng = np.random.default_rng(seed)
    return [
        *damage.cases(packages, rng),
        *mutate.cases(packages, rng),
        *programs.cases(program, rng),
        *models.cases(),
        *calls.cases(packages),
        *given.cases(packages),
    ]


def _warm() -> None:
    """Import what verbs import when they are called, so that each case starts with it."""
    for package in (frontend, passes, lowering):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    passes.optimize_for_ane(torch.nn.Linear(2, 2), (torch.ones(1, 2),))


def _watched(cases: list[Case], root: Path, jobs: int) -> list[Ran]:
    ended = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("Hostile cases", total=len(cases))
        for one in run(cases, root, jobs):
            ended.append(one)
            progress.advance(task)
    order = {id(case): number for number, case in enumerate(cases)}
    return sorted(ended, key=lambda one: order[id(one.case)])


def _document(
    found: Iterable[tuple[Ran, list[str]]], seed: int, seconds: float
) -> dict[str, object]:
    cases = [
        {
            "kind": one.case.kind,
            "name": one.case.name,
            "arguments": one.case.arguments,
            "exit_code": one.code,
            "seconds": round(one.seconds, 2),
            "message": one.stderr.strip(),
            "violations": broken,
        }
        for one, broken in found
    ]
    return {
        "seed": seed,
        "seconds": round(seconds, 1),
        "cases": cases,
        "violations": sum(len(broken) for _, broken in found),
    }


def _print(found: list[tuple[Ran, list[str]]], seed: int, seconds: float) -> None:
    console = stdout_console()
    kinds = Counter(one.case.kind for one, _ in found)
    refused = Counter(one.case.kind for one, _ in found if one.code == _REFUSED)
    broken = Counter(one.case.kind for one, rules in found for _ in rules)
    table = Table("kind", "cases", "refused", "violations")
    for kind, count in kinds.items():
        table.add_row(kind, str(count), str(refused[kind]), str(broken[kind]))
    table.add_row("all", str(kinds.total()), str(refused.total()), str(broken.total()))
    console.print(table)
    for one, rules in found:
        for rule in rules:
            console.print(escape(f"{one.case.title}\n    {rule}"))
    console.print(f"seed {seed}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
