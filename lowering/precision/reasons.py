"""Why an operator must stay in float32, told from what it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from frontend import fp16
from lowering.package.source_table import SourceTable
from lowering.precision.calibration import Sample, worst
from lowering.precision.pins import Pin
from lowering.reference import LoadedModel
from lowering.reference.mixed import MixedProgram
from lowering.reference.program import Op
from lowering.verification.package_values import feed_of


def described(
    names: Sequence[str], mixed: MixedProgram, samples: Sequence[Sample], sources: SourceTable
) -> tuple[Pin, ...]:
    """The operators ``names`` as pins, each with the user's line and a reason."""
    peaks: dict[str, float] = {}
    exact = mixed.with_halves(())
    for sample in samples:
        _note_peaks(exact, sample, peaks)
    ops = {op.name: op for op in exact.ops}
    return tuple(
        Pin(name, ops[name].type, sources.lookup(name), _reason(ops[name], peaks, mixed, samples))
        for name in names
    )


def _note_peaks(model: LoadedModel, sample: Sample, peaks: dict[str, float]) -> None:
    """Notes the largest magnitude of every value that ``model`` computes or is given."""

    def note(name: str, value: object) -> None:
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            finite = value[torch.isfinite(value)]
            peak = float(finite.abs().max()) if finite.numel() else 0.0
            peaks[name] = max(peaks.get(name, 0.0), peak)

    def observe(op: Op, results: tuple[object, ...], computed: tuple[object, ...]) -> None:
        for output, result in zip(op.outputs, results, strict=True):
            note(output.name, result)

    feed = feed_of(model, sample.original)
    for name, value in feed.items():
        if hasattr(value, "dtype"):
            note(name, torch.as_tensor(value))
    model.run(feed, model.make_state(), observe)


def _reason(
    op: Op, peaks: Mapping[str, float], mixed: MixedProgram, samples: Sequence[Sample]
) -> str:
    made = max((peaks.get(output.name, 0.0) for output in op.outputs), default=0.0)
    read = max(
        (peaks.get(name, 0.0) for names in op.inputs.values() for name in names), default=0.0
    )
    if made > fp16.MAX:
        return f"its numbers reach {made:.3g}, and float16 ends at {fp16.MAX:g}"
    if read > fp16.MAX:
        return f"it reads numbers up to {read:.3g}, and float16 ends at {fp16.MAX:g}"
    alone = worst(samples, mixed.with_halves([op.name]))
    if alone > 1:
        return f"in float16 it alone makes {alone:.3g} times the error that is allowed"
    return f"in float16 it adds {alone:.2g} of the error that is allowed, and others add theirs"
