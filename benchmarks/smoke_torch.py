"""From a model and a picture to a verified package, in under a minute: export, convert, verify.

Writes out/smoke_torch/toy.mlpackage and results.json beside it.

Exit codes: 0 the package agrees with torch on raw pictures, 1 it does not, 2 it cannot be written.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

import lowering
from benchmarks.toy import LABELS, SIZE, toy
from lowering.cli.common import EXIT_CHECK_FAILED, guarded, stdout_console
from lowering.contract.pictures import telling_picture
from lowering.verification.results_file import ResultRow, write_results


@click.command(help=__doc__)
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out/smoke_torch"),
    show_default=True,
)
@guarded
def main(folder: Path) -> None:
    """See the module."""
    start = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / "picture.png"
    telling_picture(*SIZE).rotate(90).save(picture)
    model, inputs = toy()
    exported = lowering.export(
        model,
        inputs,
        folder / "toy",
        inputs={
            "image": lowering.Image(
                SIZE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop="center"
            )
        },
        task=lowering.Classify(LABELS, top_k=3),
        accept=lowering.Acceptance("top1", 0.99),
        overwrite=True,
    )
    made = lowering.convert(exported, skip_model_load=True)
    package = lowering.save(made, folder / "toy.mlpackage")
    found = lowering.verify(package, exported, pictures=[picture])
    seconds = time.perf_counter() - start
    outcome = ResultRow(
        "toy",
        "pass" if found else "fail",
        round(seconds, 3),
        "" if found else "the package differs",
        tuple(item.to_json() for item in found.outputs),
    )
    write_results(folder / "results.json", "smoke_torch", [outcome])
    stdout_console().print(found)
    click.echo(f"{outcome.status}: {package} in {seconds:.1f} s")
    if not found:
        sys.exit(EXIT_CHECK_FAILED)


if __name__ == "__main__":
    main()
