"""What compression makes of trained networks, each judged by its own task.

* all-MiniLM-L6-v2: the largest change of a similarity between real sentences.
* CREPE ``tiny``: pitch bins of tones. MTCNN's three networks: corners of boxes.

Each is converted for iOS 18 and sent up the ladder, which is timed, and whose highest memory is
measured beyond what was there before. Exit codes: 0 every target is met, 1 one is not, 2 a model is
not installed.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import coremltools as ct
import numpy as np
import torch
from rich.table import Table
from torch import Tensor

import lowering
import passes
from benchmarks import minilm, trained
from benchmarks.trained import Trained
from lowering.cli.common import (
    EXIT_CHECK_FAILED,
    guarded,
    json_option,
    print_json,
    stdout_console,
    step,
)
from lowering.support.peak_memory import PeakMemory

# Rung to how many times smaller a package of 45 MB must be, and how far a similarity may move.
MINILM_TARGETS = {"int8": (1.9, 0.01), "pal6": (2.5, None), "pal4-grouped": (3.5, 0.05)}
# Of the whole ladder: seconds, of one core here, and memory in fp16 packages.
MOST_SECONDS, MOST_MEMORY = 300, 3.0
# Rungs whose pitches and boxes must be torch's.
EXACT = ("int8",)
_FACES = 16  # pictures for each of MTCNN's networks


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        model: its name.
        rung: of the package; ``ladder`` for all of them.
        measure: what was measured.
        found: the figure in words.
        target: what it must be, ``""`` for none.
        met: whether it is.
    """

    model: str
    rung: str
    measure: str
    found: str
    target: str = ""
    met: bool = True


def minilm_model() -> Trained:
    """MiniLM on the demonstration's sentences."""
    model = minilm.load()
    batches = [model.inputs(sentence) for sentence in minilm.SENTENCES]

    def agreement(expected: Sequence[Tensor], found: Sequence[Tensor]) -> tuple[bool, str]:
        apart = _moved(batches, expected, found)
        return True, f"similarities within {apart:.4f}"

    return Trained("all-MiniLM-L6-v2", model.encoder, batches, agreement)


def _moved(
    batches: Sequence[minilm.Inputs], expected: Sequence[Tensor], found: Sequence[Tensor]
) -> float:
    """The largest change of a similarity."""
    both = [minilm.similarities(partial(_next, iter(side)), batches) for side in (expected, found)]
    return max(abs(both[0][pair] - both[1][pair]) for pair in both[0])


def _next(rest: Iterator[Tensor], _: minilm.Inputs) -> Tensor:
    """The result already at hand for the next of the inputs, which come in order."""
    return next(rest)


def rows_of(model: Trained, folder: Path) -> Iterator[Row]:
    """The ladder of one model."""
    package = lowering.save(
        lowering.convert(
            passes.optimize_for_ane(model.module, kwargs=dict(model.calls[0])),
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        ),
        folder / f"{model.name.replace(' ', '-')}.mlpackage",
    )
    kept = folder / "rungs"
    kept.mkdir(exist_ok=True)
    _warm(folder)
    with torch.no_grad():  # which also brings the model's own weights to memory, if they were not
        expected = [_first(model.module(**call)) for call in model.calls]
    gc.collect()
    start = time.process_time()
    with PeakMemory() as memory:
        found = lowering.ladder(
            package,
            model.module,
            kwargs=dict(model.calls[0]),
            samples=model.calls[1:],
            folder=kept,
        )
    seconds = time.process_time() - start
    whole = found.levels[0].bytes
    is_text = model.name.startswith("all-MiniLM")
    for level in found.levels[1:]:
        times = whole / level.bytes
        least, most = MINILM_TARGETS.get(level.name, (None, None)) if is_text else (None, None)
        yield Row(
            model.name,
            level.name,
            "times smaller",
            f"{times:.2f}, {level.bytes / 1e6:.3g} MB, error {level.error:.1e}",
            f"≥ {least}" if least else "",
            least is None or times >= least,
        )
        hidden = _run(kept / f"{level.name}.mlpackage", model.calls)
        agrees, compared = model.agreement(expected, hidden)
        if is_text:
            apart = _moved([dict(call) for call in model.calls], expected, hidden)
            agrees = most is None or apart <= most
            target = f"within {most}" if most else ""
        else:
            target = "as torch's" if level.name in EXACT else ""
            agrees = agrees or not target
        yield Row(model.name, level.name, "agreement", compared, target, agrees)
    yield Row(model.name, "ladder", "knee", found.knee or "none")
    if is_text:
        yield Row(
            model.name,
            "ladder",
            "seconds of one core",
            f"{seconds:.0f}",
            f"≤ {MOST_SECONDS}",
            seconds <= MOST_SECONDS,
        )
        share = memory.added_bytes / whole
        yield Row(
            model.name,
            "ladder",
            "memory / fp16 package",
            f"{share:.2f}",
            f"≤ {MOST_MEMORY:g}",
            share <= MOST_MEMORY,
        )


def _warm(folder: Path) -> None:
    """A ladder of a small model: what is imported then is no memory of the next one."""
    model, x = torch.nn.Linear(64, 64), torch.ones(1, 64)
    package = lowering.save(
        lowering.convert(model, (x,), minimum_deployment_target=ct.target.iOS18),
        folder / "warm.mlpackage",
    )
    lowering.ladder(package, model, (x,), rungs=("pal4",))


def _first(result: object) -> Tensor:
    if isinstance(result, Tensor):
        return result
    values = result.values() if isinstance(result, Mapping) else result
    return next(iter(values))  # type: ignore[call-overload]


def _run(package: Path, calls: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
    """The first output of a package on every call."""
    loaded = lowering.load(package)
    types = {name: item.dtype.storage for name, item in loaded.inputs.items()}
    found = []
    for call in calls:
        values = loaded({name: call[name].numpy().astype(types[name]) for name in types})
        found.append(torch.from_numpy(np.asarray(next(iter(values.values())))))
    return found


def models(only: Sequence[str], folder: Path) -> Iterator[Trained]:
    """Those asked for, all by default."""
    if not only or "minilm" in only:
        yield minilm_model()
    if not only or "crepe" in only:
        yield from (model for model in trained.crepe(folder) if model.name.endswith("tiny"))
    if not only or "mtcnn" in only:
        for model in trained.mtcnn(folder):
            yield Trained(model.name, model.module, model.calls[:_FACES], model.agreement)


@click.command(help=__doc__)
@click.option(
    "--only", type=click.Choice(("minilm", "crepe", "mtcnn")), multiple=True, help="These alone."
)
@json_option
@guarded
def main(only: tuple[str, ...], as_json: bool) -> None:
    """Climbs the ladders and prints the figures."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    with TemporaryDirectory() as scratch:
        for model in models(only, Path(scratch)):
            with step(f"{model.name}: climbing"):
                rows += rows_of(model, Path(scratch))
    if as_json:
        print_json([asdict(row) for row in rows])
    else:
        table = Table("model", "rung", "", "found", "target", "")
        for row in rows:
            verdict = "" if not row.target else "met" if row.met else "MISSED"
            table.add_row(row.model, row.rung, row.measure, row.found, row.target, verdict)
        stdout_console().print(table)
    if not all(row.met for row in rows):
        raise SystemExit(EXIT_CHECK_FAILED)


if __name__ == "__main__":
    main()
