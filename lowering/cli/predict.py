"""``ane-passes predict``: run a finished package on any OS."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table

from lowering.cli.common import (
    function_option,
    guarded,
    json_option,
    print_json,
    refuse_given,
    stdout_console,
    step,
)
from lowering.cli.core_ai import ASSET_SUFFIX, run_asset
from lowering.cli.run_as import run_as_option

if TYPE_CHECKING:
    from lowering.reference import LoadedModel
    from lowering.reference.watch import WatchFinding

_EXIT_FOUND = 1
# How many labels of a classifier are shown; --json and --output-dir have all.
_LIKELIEST = 5

HELP = """Run a Core ML package through the reference interpreter. Works on any OS.

Inputs are given as NAME=FILE.npy, NAME=IMAGE (.png, .jpg), NAME=NUMBER, NAME=random or NAME=zeros;
an input that is not given is drawn at random. Random values depend on --seed only. A package that
was made from a contract takes pictures of any size and kind, and WAV files, as its contract says.
An .aimodel runs in Apple's own runtime for Core AI (the extra ane-passes[coreai]).

\b
Examples:
  ane-passes predict tiny.mlpackage
  ane-passes predict tiny.mlpackage --input x=x.npy --output-dir out
  ane-passes predict tiny.mlpackage --input x=random --watch --run-as strict

Exit codes: 0 done, 1 --watch found NaN, Inf or fp16 overflow, 2 the package or the call needs
attention.
"""


@click.command("predict", help=HELP, short_help="Run a package, on any OS.")
@click.argument("package", type=click.Path(path_type=Path))
@click.option(
    "--input", "-i", "assignments", multiple=True, metavar="NAME=VALUE", help="See above."
)
@run_as_option
@function_option
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Calls one after the other on the same state.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of random inputs."
)
@click.option(
    "--max-turns",
    type=click.IntRange(min=1),
    help="Of a loop in the program; 100000 by default. One that makes more has no end.",
)
@click.option("--watch", is_flag=True, help="Report where NaN, Inf and fp16 overflow arise.")
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write each output as NAME.npy (or .png; .json for labels) there.",
)
@json_option
@guarded
def predict(
    package: Path,
    assignments: tuple[str, ...],
    precision: str,
    function: str,
    steps: int,
    seed: int,
    max_turns: int | None,
    watch: bool,
    output_dir: Path | None,
    as_json: bool,
) -> None:
    """See :data:`HELP`."""
    if package.suffix == ASSET_SUFFIX:
        refuse_given(("precision", "function", "watch"), "Apple's runtime runs an asset as it is")
        given, found, took = run_asset(package, assignments, steps, seed)
        if output_dir is not None:
            _write(dict(found), output_dir)
        if as_json:
            _print_json(package, "as declared", took / steps, given, found)
        else:
            stdout_console().print(_table(found))
            stdout_console().print(f"{took:.1f} s in Apple's runtime, with its start (CPU)")
        return
    with step(f"Loading {package}"):
        from frontend.errors import about
        from lowering.contract.verbs import with_files
        from lowering.package.source_table import SourceTable
        from lowering.reference import load
        from lowering.reference.inputs import given_inputs
        from lowering.reference.model import MAX_TURNS
        from lowering.reference.watch import Watch

        model = load(
            package, function=function, precision=precision, max_turns=max_turns or MAX_TURNS
        )
        with about(model.label):
            table = SourceTable.from_metadata(model.metadata)
    inputs = with_files(model, given_inputs(model.inputs, assignments, seed))
    watcher = Watch(table.lookup) if watch else None
    if watcher is not None:
        watcher.inputs(inputs)
    state = model.make_state()
    start = time.perf_counter()
    with step("Running"):
        for _ in range(steps):
            outputs = model.run(inputs, state, watcher)
    seconds = (time.perf_counter() - start) / steps
    if output_dir is not None:
        _write(outputs, output_dir)
    origins = watcher.origins if watcher else []
    if as_json:
        findings = {"findings": [item.to_json() for item in origins]} if watcher else {}
        _print_json(package, precision, seconds, inputs, outputs, **findings)
    else:
        _print(model, outputs, seconds, origins if watcher else None)
    if origins:
        raise SystemExit(_EXIT_FOUND)


def _print_json(
    package: Path,
    precision: str,
    seconds: float,
    inputs: Mapping[str, object],
    outputs: Mapping[str, object],
    **findings: object,
) -> None:
    from lowering.support.finite import finite

    print_json(
        finite(
            {
                "package": str(package),
                "precision": precision,
                "seconds_per_call": seconds,
                "inputs": {name: _summary(value) for name, value in inputs.items()},
                "outputs": {name: _summary(value) for name, value in outputs.items()},
                **findings,
            }
        )
    )


def _summary(value: Any) -> dict[str, Any]:
    import numpy as np

    if isinstance(value, np.ndarray):
        summary: dict[str, Any] = {"dtype": str(value.dtype), "shape": list(value.shape)}
        if value.size and value.dtype.kind in "fiu":
            wide = value.astype(np.float64)
            finite = wide[np.isfinite(wide)]
            summary |= {
                name: count
                for name, count in (
                    ("nan", int(np.isnan(wide).sum())),
                    ("infinite", int(np.isinf(wide).sum())),
                )
                if count
            }
            wide = finite if finite.size else wide
            summary |= {"min": wide.min(), "max": wide.max(), "mean": wide.mean()}
        return summary
    if hasattr(value, "mode"):
        return {"image": value.mode, "size": list(value.size)}
    return {"value": value}


def _print(
    model: LoadedModel,
    outputs: dict[str, Any],
    seconds: float,
    findings: list[WatchFinding] | None,
) -> None:
    console = stdout_console()
    console.print(_table(outputs))
    for name, value in outputs.items():
        console.print(*_not_finite(name, value, findings is not None), sep="\n", end="")
    count = len(model.ops)
    console.print(f"{count} ops, {seconds * 1e3:.1f} ms per call in the interpreter (CPU)")
    if findings is None:
        return
    if not findings:
        console.print("watch: every value is finite and fits its type")
    for item in findings:
        console.print(
            escape(
                f"watch: {item.problem} in {item.count} elements of {item.value} "
                f"({item.type} {item.op}), range {item.low:.6g} to {item.high:.6g}; {item.source}"
            )
        )


def _table(outputs: Mapping[str, Any]) -> Table:
    table = Table("output", "type", "shape", "min", "max", "mean")
    for name, value in outputs.items():
        row = _summary(value)
        if "dtype" in row:
            numbers = [f"{row[key]:.6g}" if key in row else "" for key in ("min", "max", "mean")]
            table.add_row(escape(name), row["dtype"], escape(str(tuple(row["shape"]))), *numbers)
        else:
            table.add_row(escape(name), escape(_shown(value)), "", "", "", "")
    return table


def _shown(value: object) -> str:
    """A label, an image, or the likeliest of a classifier's labels."""
    if isinstance(value, dict):
        best = sorted(value.items(), key=lambda item: -item[1])[:_LIKELIEST]
        return ", ".join(f"{label} {score:.3g}" for label, score in best)
    return (
        f"{value.mode} image, {value.size}"
        if hasattr(value, "mode") and hasattr(value, "size")
        else str(value)
    )


def _not_finite(name: str, value: Any, watched: bool) -> Iterator[str]:
    """What of an output is no number, as lines."""
    row = _summary(value)
    for key, words in (("nan", "NaN"), ("infinite", "infinite")):
        if key in row:
            where = "" if watched else "; --watch says where that comes from"
            yield escape(f"output {name}: {row[key]} of {value.size} elements are {words}{where}\n")


def _write(outputs: dict[str, Any], directory: Path) -> None:
    import numpy as np

    directory.mkdir(parents=True, exist_ok=True)
    for name, value in outputs.items():
        if isinstance(value, np.ndarray):
            np.save(directory / f"{name}.npy", value)
        elif hasattr(value, "mode"):
            value.save(directory / f"{name}.png")
        else:
            text = json.dumps(value, default=float)
            (directory / f"{name}.json").write_text(text + "\n", encoding="utf-8")
