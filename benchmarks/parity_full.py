"""Every recipe from raw pictures and sounds: exported, converted twice, and verified.

A recipe whose packages are not installed is a SKIP, and any SKIP fails the run: full is full.
Writes results.json.

Exit codes: 0 all agree, 1 one does not or was skipped, 2 the call needs attention.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import click
import torch

import lowering
from benchmarks.minilm import MissingModelError
from benchmarks.recipes import RECIPES
from frontend.errors import AnePassesError
from lowering.cli.common import EXIT_CHECK_FAILED, guarded
from lowering.contract.pictures import telling_picture
from lowering.verification import Verification
from lowering.verification.metrics import AT_LEAST
from lowering.verification.results_file import (
    ResultRow,
    check_results_path,
    totals,
    write_results,
)

# Two ways to round a network differ by so much in the share of boxes, by chance.
_CHANCE = 0.05
_PRECISIONS = ("float32", "float16")
# File names with width and height: wider, higher, and three and four pixels wide.
_PICTURES = {
    "wide.png": (320, 200),
    "high.jpg": (150, 400),
    "three.png": (3, 90),
    "four.jpg": (4, 4),
}


@click.command(help=__doc__)
@click.option("--only", multiple=True, type=click.Choice(tuple(RECIPES)), help="Recipes to run.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("out/parity_full/results.json"),
    show_default=True,
)
@guarded
def main(only: Sequence[str], output: Path) -> None:
    """See the module."""
    check_results_path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        pictures = written_pictures(Path(folder))
        for name in only or RECIPES:
            for row in rows_of(name, pictures, Path(folder)):
                rows.append(row)
                click.echo(f"{row.status.upper():4} {row.name}  {row.seconds:.1f} s {row.reason}")
    write_results(output, "parity_full", rows)
    counts = totals(rows)
    click.echo(
        f"{counts['pass']} passed, {counts['fail']} failed, {counts['skip']} SKIPPED; {output}"
    )
    if counts["fail"] or counts["skip"]:
        sys.exit(EXIT_CHECK_FAILED)


def written_pictures(folder: Path) -> list[Path]:
    """Files of several sizes and kinds."""
    for name, size in _PICTURES.items():
        telling_picture(64, 64).resize(size).save(folder / name)
    return [folder / name for name in _PICTURES]


def rows_of(name: str, pictures: Sequence[Path], folder: Path) -> Iterator[ResultRow]:
    """What came of one recipe, once for each precision."""
    torch.manual_seed(0)
    start = time.perf_counter()
    try:
        recipe = RECIPES[name]()
    except (ImportError, MissingModelError) as error:
        reason = str(error).splitlines()[0]
        yield from (ResultRow(f"{name} {kind}", "skip", 0.0, reason) for kind in _PRECISIONS)
        return
    for kind in _PRECISIONS:
        try:
            exported = lowering.export(
                recipe.model,
                None,
                folder / name,
                kwargs=recipe.kwargs,
                inputs=recipe.images,
                task=recipe.task,
                precision=kind,
                overwrite=True,
            )
            package = lowering.convert(exported, skip_model_load=True)
            seen = any(isinstance(form, lowering.Image) for form in recipe.images.values())
            found = lowering.verify(
                package,
                exported,
                pictures=pictures if seen else (),
                metric=recipe.metric,
                locate=False,
            )
        except AnePassesError as error:
            seconds = time.perf_counter() - start
            yield ResultRow(f"{name} {kind}", "fail", round(seconds, 3), str(error))
            continue
        wrong = list(differences(found, () if recipe.task is None else recipe.task.judges()))
        yield ResultRow(
            f"{name} {kind}",
            "fail" if wrong else "pass",
            round(time.perf_counter() - start, 3),
            f"differs: {', '.join(wrong)}" if wrong else "",
            tuple(item.to_json() for item in found.outputs),
        )
        start = time.perf_counter()


def differences(found: Verification, judged: Collection[str]) -> Iterator[str]:
    """What is wrong with a package, as words.

    Which of two boxes that overlap is the better one, a detector with random weights says by
    chance: torch itself, in half precision, keeps others. Outputs that are ``judged`` by what they
    mean may differ then, as long as the metric is as good as torch's own.
    """
    if found.error:
        yield found.error
    agreed = found.agreement
    chance = agreed is not None and agreed.half_mean < AT_LEAST
    for item in found.outputs:
        if not item.passed and not (chance and item.name in judged):
            yield f"{item.name} by {item.rel_l2:.1e}"
    if agreed is not None:
        least = min(AT_LEAST, agreed.half_mean - _CHANCE) if chance else AT_LEAST
        if not agreed.mean >= least:
            yield f"{agreed.metric} {agreed.mean:.4f}, torch in half {agreed.half_mean:.4f}"


if __name__ == "__main__":
    main()
