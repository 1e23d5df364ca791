"""``--probes``, ``--onnx`` and ``-o results.json`` of ``verify``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lowering.cli.common import (
    EXIT_CHECK_FAILED,
    Command,
    print_json,
    stdout_console,
    step,
)

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from lowering.verification import Original, Verification
    from lowering.verification.onnx_probes import ThreeWay


def probes_options(function: Command) -> Command:
    """Values inside, and the file for what was found."""
    for option in (
        click.option(
            "-o",
            "--output",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Write what was found as results.json.",
        ),
        click.option("--onnx", is_flag=True, help="Of --probes: run ONNX Runtime beside both."),
        click.option(
            "--probes", is_flag=True, help="Compare the values inside as well, node by node."
        ),
    ):
        function = option(function)
    return function


def probed(
    package: Path,
    against: nn.Module | ExportedProgram | Original,
    args: object,
    kwargs: Mapping[str, object] | None,
    onnx: bool,
) -> list[ThreeWay]:
    """Every node that torch and the package share."""
    with step("Comparing the values inside"):
        from lowering.verification.onnx_probes import three_way

        return three_way(package, against, args, kwargs, onnx=onnx)


def probed_folder(package: Path, folder: str, trust: bool, onnx: bool) -> list[ThreeWay]:
    """Likewise, for a model with its contract."""
    from lowering.contract.folder import open_folder
    from lowering.contract.originals import original_of
    from lowering.reference import load

    original = original_of(open_folder(folder, trust=trust), load(package).metadata)
    return probed(package, original, None, None, onnx)


def say(
    package: Path,
    found: Verification,
    as_json: bool,
    *,
    rows: list[ThreeWay] | None = None,
    output: Path | None = None,
    seconds: float = 0.0,
) -> None:
    """Print what was found, write it where that is asked for, and exit with 1 for a difference."""
    if output is not None:
        from lowering.verification.results_file import ResultRow, write_results

        outcome = ResultRow(
            package.name,
            "pass" if found.passed else "fail",
            round(seconds, 3),
            "" if found.passed else found.error or "an output differs by more than is allowed",
            tuple(item.to_json() for item in found.outputs),
            tuple(row.to_json() for row in rows or ()),
        )
        write_results(output, "verify", [outcome])
    if as_json:
        probes = {} if rows is None else {"probes": [row.to_json() for row in rows]}
        print_json({"package": str(package), **found.to_json(), **probes})
    else:
        console = stdout_console()
        console.print(found)
        if rows is not None:
            from lowering.verification.onnx_probes import probes_table

            console.print(probes_table(rows))
    if not found.passed:
        raise SystemExit(EXIT_CHECK_FAILED)
