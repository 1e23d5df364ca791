"""The figures of one rewritten program."""

from __future__ import annotations

import math
import shutil
import statistics
import time
from collections.abc import Sequence

import coremltools as ct
import torch
from torch import Tensor
from torch.export import ExportedProgram

from lowering.ablation.result import Figures, Observed, Predicted
from lowering.conversion.composites import Composite
from lowering.conversion.converter import convert
from lowering.planner.mil import read_program
from lowering.planner.mil_stats import mil_stats, weight_bytes
from lowering.planner.placement import plan
from lowering.reference import load
from lowering.support.peak_memory import PeakMemory
from lowering.verification.metrics import metric_of
from lowering.verification.original import Original
from lowering.verification.package_values import feed_of, output_values, returned
from lowering.verification.parity import parity, rel_l2
from passes.optimized_model import OptimizedModel

# Calls of the rewritten module that are timed: enough for a median, or as many as fit the time.
_MAX_CALLS = 9
_MIN_CALLS = 3
_TIMING_SECONDS = 1.0


def figures_of(
    program: ExportedProgram,
    original: Original,
    expected: Sequence[Tensor],
    *,
    composites: Sequence[Composite] = (),
    deployment_target: str = "iOS17",
    targets: Sequence[str] = ("M4",),
    metric: str | None = None,
) -> Figures:
    """Converts ``program``, runs it in the interpreter and in torch, and plans it.

    Args:
        program: captured and rewritten.
        original: its inputs and initial states are those of the comparison.
        expected: the original's outputs in float32.
        composites: lowerings of custom operators.
        deployment_target: such as ``iOS17``.
        targets: chips.
        metric: name of one by which the outputs are judged as well, see ``verify``.

    Raises:
        AnePassesError: it cannot be converted, run or planned.
    """
    with PeakMemory() as peak:
        start = time.perf_counter()
        mlmodel = convert(
            program,
            composites=composites,
            minimum_deployment_target=ct.target[deployment_target],
            skip_model_load=True,
        )
        seconds = time.perf_counter() - start
        try:
            rel_l2, max_abs, agreement = _compared(mlmodel, original, expected, metric)
            plans = [plan(mlmodel, chip=target) for target in targets]
            stats, weights = mil_stats(read_program(mlmodel)), weight_bytes(mlmodel)
        finally:
            # coremltools keeps its folder until the process ends; a sweep would fill the disk.
            shutil.rmtree(mlmodel.package_path)
    return Figures(
        mil=stats,
        weight_bytes=weights,
        rel_l2=rel_l2,
        max_abs=max_abs,
        predicted=tuple(Predicted.of(entry) for entry in plans),
        observed=Observed(seconds, _cpu_ms(program), peak.added_bytes),
        agreement=agreement,
    )


def _compared(
    mlmodel: ct.models.MLModel,
    original: Original,
    expected: Sequence[Tensor],
    metric: str | None,
) -> tuple[float, float, float | None]:
    """Largest relative L2 and largest absolute error of the outputs, and what the metric says."""
    model = load(mlmodel)
    outputs = model(feed_of(model, original), model.make_state())
    values = returned(model, original.program, outputs)
    found = [
        parity("", value, want, math.inf) for value, want in zip(values, expected, strict=True)
    ]
    agreement = None
    if metric is not None:
        names = [name for name, _ in output_values(model, original.program)]
        both = (dict(zip(names, side, strict=True)) for side in (values, expected))
        agreement = metric_of(metric)(*both)
    return (
        max((entry.rel_l2 for entry in found), default=0.0),
        max((entry.max_abs for entry in found), default=0.0),
        agreement,
    )


def half_error(original: Original, expected: Sequence[Tensor]) -> float | None:
    """Largest relative L2 error of the original run by torch in half precision, if it can be."""
    half = original.in_half()
    if half is None:
        return None
    return max((rel_l2(a, b) for a, b in zip(half, expected, strict=True)), default=0.0)


def _cpu_ms(program: ExportedProgram) -> float:
    """Median milliseconds of a call of the rewritten module in torch, after a first one."""
    assert program.example_inputs is not None  # capture keeps them
    model = OptimizedModel(program)
    args, kwargs = program.example_inputs
    times: list[float] = []
    with torch.no_grad():
        model(*args, **kwargs)
        while len(times) < _MIN_CALLS or (len(times) < _MAX_CALLS and sum(times) < _TIMING_SECONDS):
            start = time.perf_counter()
            model(*args, **kwargs)
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3
