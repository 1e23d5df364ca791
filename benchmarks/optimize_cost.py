"""What optimising costs: against stock conversion, with depth, and in memory.

* ratio: seconds of ``optimize_for_ane`` over seconds of stock ``ct.convert`` (without its trace) on
  DistilBERT, 6 layers, both given a ready mask. They alternate in one process; the ratio is that
  of the medians.
* growth: seconds for each layer at 48 layers over those at 6, at a narrow width, as passes look
  at nodes and not at numbers.
* memory: in a process of its own, with everything imported and the model built, the most that
  optimising adds to the resident memory, beside 1.3 times the weights + 300 MB. The model itself
  is in what was resident before, so the peak as a whole is compared: weights + added.

Seconds are those of this process on the processor, so that other work on the machine counts for
nothing; with one thread and an idle machine they are what the clock shows.

Exit codes: 0 every target is met, 1 one is missed.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from lowering.cli.common import (
    EXIT_CHECK_FAILED,
    guarded,
    json_option,
    print_json,
    stdout_console,
    step,
)
from lowering.support.peak_memory import PeakMemory

if TYPE_CHECKING:
    from torch import nn

    import passes

TARGET_RATIO = 1.0
TARGET_GROWTH = 1.3
WEIGHTS_FACTOR, EXTRA_MB = 1.3, 300.0
SHALLOW, DEEP = 6, 48
NARROW = {"width": 96, "heads": 12}  # heads as in the real width: they decide the graph's size


def ratio(runs: int) -> dict[str, Any]:
    """Seconds of optimising and of stock conversion of the same module."""
    from benchmarks import stock
    from benchmarks.ports import distilbert

    model, inputs = distilbert()
    call = inputs()
    ready = stock.ReadyMask(model)
    arguments = (call["input_ids"], stock.additive_mask(call["attention_mask"]))
    ours, theirs = [], []
    for _ in range(runs):
        theirs.append(
            stock.stock_convert(ready, arguments, clock=time.process_time).convert_seconds
        )
        ours.append(_seconds(partial(_optimize, ready, arguments)))
    found = statistics.median(ours) / statistics.median(theirs)
    return {
        "optimize_seconds": ours,
        "stock_convert_seconds": theirs,
        "ratio": found,
        "target": TARGET_RATIO,
        "met": found <= TARGET_RATIO,
    }


def growth(runs: int) -> dict[str, Any]:
    """Seconds for each layer, shallow and deep; the fastest run of each counts."""
    from benchmarks.ports import distilbert

    per_layer = {}
    for layers in (SHALLOW, DEEP):
        model, inputs = distilbert(layers, **NARROW)
        call = inputs()
        arguments = (call["input_ids"], call["attention_mask"])
        best = min(_seconds(partial(_optimize, model, arguments)) for _ in range(runs))
        per_layer[layers] = best / layers
    found = per_layer[DEEP] / per_layer[SHALLOW]
    return {
        "seconds_per_layer": per_layer,
        "ratio": found,
        "target": TARGET_GROWTH,
        "met": found <= TARGET_GROWTH,
    }


def memory(threads: int) -> dict[str, Any]:
    """Peak memory of optimising DistilBERT, from a fresh process."""
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.optimize_cost",
            "--measure-memory",
            f"--threads={threads}",
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(json.loads(result.stdout.splitlines()[-1]))


def measured_memory() -> dict[str, Any]:
    """The figures of :func:`memory`, of this process."""
    import torch

    import passes  # noqa: F401  what is imported is no part of the cost
    from benchmarks.ports import distilbert

    model, inputs = distilbert()
    call = inputs()
    arguments = (call["input_ids"], call["attention_mask"])
    # What torch imports and compiles on its first export is no part of the cost either.
    _optimize(torch.nn.Linear(2, 2).eval(), (torch.randn(1, 2),))
    weights = sum(p.numel() * p.element_size() for p in model.parameters()) / 1e6
    with PeakMemory() as peak:
        kept = _optimize(model, arguments)
    assert kept.program is not None  # alive until here, as it is for the user
    added = peak.added_bytes / 1e6
    limit = WEIGHTS_FACTOR * weights + EXTRA_MB
    return {
        "weights_mb": weights,
        "added_mb": added,
        "peak_mb": weights + added,
        "limit_mb": limit,
        "met": weights + added <= limit,
    }


def _optimize(model: nn.Module, arguments: tuple[Any, ...]) -> passes.OptimizedModule:
    import passes

    return passes.optimize_for_ane(model, arguments)


def _seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def table(found: dict[str, Any]) -> Table:
    """One row for each target."""
    shown = Table(box=None, pad_edge=False)
    for heading in ("", "found", "target", ""):
        shown.add_column(heading)
    marks = {True: "met", False: "[red]missed[/red]"}
    cost, depth, space = found["ratio"], found["growth"], found["memory"]
    shown.add_row(
        "optimize_for_ane / stock ct.convert",
        f"{cost['ratio']:.2f} ({statistics.median(cost['optimize_seconds']):.1f} s / "
        f"{statistics.median(cost['stock_convert_seconds']):.1f} s)",
        f"≤ {cost['target']:g}",
        marks[cost["met"]],
    )
    shallow, deep = depth["seconds_per_layer"].values()
    shown.add_row(
        f"seconds per layer, {DEEP} layers / {SHALLOW}",
        f"{depth['ratio']:.2f} ({deep:.3f} s / {shallow:.3f} s)",
        f"≤ {depth['target']:g}",
        marks[depth["met"]],
    )
    shown.add_row(
        "peak memory: weights + added",
        f"{space['peak_mb']:.0f} MB ({space['weights_mb']:.0f} + {space['added_mb']:.0f})",
        f"≤ {space['limit_mb']:.0f} MB",
        marks[space["met"]],
    )
    return shown


@click.command(help=__doc__)
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--measure-memory", is_flag=True, hidden=True, help="Print memory(), as JSON.")
@json_option
@guarded
def main(runs: int, threads: int, measure_memory: bool, as_json: bool) -> None:
    """See the module."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if measure_memory:
        click.echo(json.dumps(measured_memory()))
        return
    found = {}
    for name, measure in (
        ("memory", lambda: memory(threads)),
        ("ratio", lambda: ratio(runs)),
        ("growth", lambda: growth(max(runs - 1, 1))),
    ):
        with step(f"Measuring {name}"):
            found[name] = measure()
        click.echo(f"{name} {'met' if found[name]['met'] else 'MISSED'}", err=True)
    if as_json:
        print_json(found)
    else:
        stdout_console().print(table(found))
    if not all(item["met"] for item in found.values()):
        sys.exit(EXIT_CHECK_FAILED)


if __name__ == "__main__":
    main()
