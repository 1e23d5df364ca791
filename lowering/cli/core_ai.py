"""What ``convert``, ``predict`` and ``verify`` do with an ``.aimodel``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from lowering.cli.common import print_json, stdout_console, step
from lowering.core_ai.asset import SUFFIX as ASSET_SUFFIX
from lowering.core_ai.asset import Port

__all__ = ["ASSET_SUFFIX", "report_converted", "run_asset"]

if TYPE_CHECKING:
    import numpy as np

    from lowering.core_ai.asset import CoreAIModel
    from lowering.reference.io import Feature
    from passes.pipeline import PassReport


def report_converted(
    model: CoreAIModel,
    path: Path,
    reports: Sequence[PassReport],
    seconds: float,
    as_json: bool,
) -> None:
    """Say what was written where."""
    from lowering.cli.summary import reports_table

    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    if as_json:
        names = {
            key: [port.name for port in getattr(model.interface, key)]
            for key in ("inputs", "outputs", "states")
        }
        print_json(
            {
                "package": str(path),
                "format": "aimodel",
                "bytes": size,
                **names,
                "seconds": round(seconds, 2),
                "passes": [report.to_json() for report in reports],
            }
        )
        return
    console = stdout_console()
    if reports:
        console.print(reports_table(reports))
        console.print()
    console.print(f"saved {escape(str(path))}, {size / 1e6:.1f} MB, in {seconds:.1f} s")


def run_asset(
    path: Path, assignments: Sequence[str], steps: int, seed: int
) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray], float]:
    """Inputs, the outputs of the last of ``steps`` calls, and seconds with the child's start."""
    with step(f"Running {path} in Apple's runtime"):
        from lowering.core_ai.asset import read_interface
        from lowering.core_ai.runtime import run_calls
        from lowering.reference.inputs import given_inputs

        features = {port.name: _feature(port) for port in read_interface(path)[0].inputs}
        inputs = given_inputs(features, assignments, seed)
        start = time.perf_counter()
        ran = run_calls(path, [inputs] * steps)
    return inputs, ran.outputs[-1], time.perf_counter() - start


def _feature(port: Port) -> Feature:
    from lowering.package.dtypes import BY_PROTO
    from lowering.reference.io import Feature

    dtype = next(kind for kind in BY_PROTO.values() if kind.storage.name == port.dtype)
    return Feature(port.name, dtype, default_shape=tuple(max(1, size) for size in port.shape))
