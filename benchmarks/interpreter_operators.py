"""Operators in the interpreter beside eager torch, worst first; see ``interpreter_speed``.

Each is converted to a float16 package for iOS 18 without ANE passes. Eager torch computes the same
in float32 and rounds its results to float16, as the package does: float16 itself is slower there.
Calls alternate in one process, on one thread, in CPU seconds of that thread; ratios are of medians.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import coremltools as ct
import numpy as np
import torch

from benchmarks.interpreter_rows import PALETTED, ROWS_BY_NAME, TINY, TINY_OPERATORS, OperatorRow
from lowering import compress, convert, load
from lowering.reference.model import LoadedModel

TINY_MICROSECONDS = 7.0
PALETTE_LOAD = 3.0


@dataclass(frozen=True)
class TimedRow:
    """One row, *measured* on this machine.

    Attributes:
        row: its name.
        eager: milliseconds in eager torch, or to load the package of comparison.
        ours: milliseconds in the interpreter.
        value: what the target is for: their ratio, or microseconds of one tiny operator.
        target: how large it may be.
    """

    row: str
    eager: float
    ours: float
    value: float
    target: float

    @property
    def missed(self) -> bool:
        """Whether the target is missed."""
        return self.value > self.target


def alternated(
    one: Callable[[], object], other: Callable[[], object], runs: int
) -> tuple[float, float]:
    """Medians of the thread's CPU milliseconds of two calls that take turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(runs + 2):
        for call, found in zip((one, other), times, strict=True):
            start = time.thread_time()
            call()
            if turn > 1:
                found.append((time.thread_time() - start) * 1e3)
    return statistics.median(times[0]), statistics.median(times[1])


def package_of(row: OperatorRow) -> tuple[torch.nn.Module, object]:
    """The row's module, and its package."""
    torch.manual_seed(0)
    module = row.build().eval()
    package = convert(
        module,
        row.inputs,
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    return module, package


def measured(name: str, row: OperatorRow, runs: int) -> TimedRow:
    """The row in eager torch and in the interpreter, which must agree.

    Raises:
        AssertionError: they do not.
    """
    module, package = package_of(row)
    loaded = load(package)
    arrays = {key: x.numpy() for key, x in zip(loaded.inputs, row.inputs, strict=True)}

    def eager() -> list[np.ndarray]:
        with torch.inference_mode():
            made = module(*row.inputs)
        parts = made if isinstance(made, tuple | list) else (made,)
        return [(x.half() if x.is_floating_point() else x).numpy() for x in parts]

    compare(name, loaded, arrays, eager())
    first, second = alternated(eager, lambda: loaded(arrays), runs)
    if row is TINY:
        return TimedRow(name, first, second, second * 1e3 / TINY_OPERATORS, TINY_MICROSECONDS)
    return TimedRow(name, first, second, second / first, row.target)


def compare(
    name: str, loaded: LoadedModel, arrays: dict[str, np.ndarray], wanted: list[np.ndarray]
) -> None:
    """Raises :class:`AssertionError` where the package computes something else than eager torch."""
    for found, want in zip(loaded(arrays).values(), wanted, strict=True):
        if np.issubdtype(want.dtype, np.integer):
            # Torch says nothing of the order of equal numbers.
            assert np.mean(found != want) < 0.05, f"{name}: other places than eager torch"
        else:
            np.testing.assert_allclose(found, want, rtol=2e-2, atol=2e-2, err_msg=name)


def palettes(runs: int) -> TimedRow:
    """Time to load 4-bit palettes beside that of the same weights in float16."""
    with tempfile.TemporaryDirectory() as directory:
        plain, packed = Path(directory, "plain.mlpackage"), Path(directory, "packed.mlpackage")
        package_of(PALETTED)[1].save(str(plain))  # type: ignore[attr-defined]
        compress(plain, "pal4", packed)
        first, second = alternated(lambda: load(plain), lambda: load(packed), runs)
    return TimedRow("load 4-bit palettes", first, second, second / first, PALETTE_LOAD)


def rows(runs: int, only: str = "") -> list[TimedRow]:
    """Every row whose name holds ``only``, worst first."""
    found = []
    for name, row in ROWS_BY_NAME.items():
        if only in name:
            found.append(measured(name, row, runs))
            click.echo(f"{name}: {found[-1].value:.2f}", err=True)
    tiny = f"{TINY_OPERATORS} tiny operators"
    if only in tiny:
        found.append(measured(tiny, TINY, runs))
    if only in "load 4-bit palettes":
        found.append(palettes(max(3, runs // 3)))
    return sorted(found, key=lambda timed: timed.value / timed.target, reverse=True)


def table(found: list[TimedRow]) -> str:
    """The rows as text, as they stand."""
    lines = [f"{'row':28s} {'eager ms':>9s} {'ours ms':>9s} {'value':>7s} {'target':>7s}"]
    for timed in found:
        mark = " missed" if timed.missed else ""
        lines.append(
            f"{timed.row:28s} {timed.eager:9.3f} {timed.ours:9.3f} {timed.value:7.2f} "
            f"{timed.target:7.2f}{mark}"
        )
    return "\n".join(lines)
