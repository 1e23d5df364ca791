"""*Observed* times: measured by coremltools' own benchmarker, on a Mac only."""

from __future__ import annotations

import asyncio
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frontend.errors import AnePassesError


class ObserveError(AnePassesError):
    """Nothing can be measured here."""


@dataclass(frozen=True)
class Observation:
    """Prediction times of a model on this machine.

    Attributes:
        median_ms: median of the calls, milliseconds, after a warm-up call.
        minimum_ms: fastest call.
        maximum_ms: slowest call.
        calls: number of calls.
        system: the machine and system.
    """

    median_ms: float
    minimum_ms: float
    maximum_ms: float
    calls: int
    system: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": "observed", **vars(self)}


def observe(
    model_path: str | Path, *, compute_units: str = "CPU_AND_NE", calls: int = 20
) -> Observation:
    """Time the model on this Mac with random inputs.

    Args:
        model_path: a ``.mlpackage``.
        compute_units: name of a ``coremltools.ComputeUnit``.
        calls: number of timed calls.

    Raises:
        ObserveError: this is not a Mac.
    """
    if sys.platform != "darwin":
        raise ObserveError(
            "times can only be observed on a Mac",
            expected="macOS",
            found=platform.system(),
            hint="the predicted figures need no Mac",
        )
    import coremltools as ct
    from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker

    model = ct.models.MLModel(str(model_path), compute_units=getattr(ct.ComputeUnit, compute_units))
    measured = asyncio.run(
        MLModelBenchmarker(model).benchmark_predict(iterations=calls, warmup=True)
    ).statistics
    system = f"{platform.machine()}, macOS {platform.mac_ver()[0]}"
    return Observation(measured.median, measured.minimum, measured.maximum, calls, system)
