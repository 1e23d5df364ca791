"""Why an operator must stay in float32, told from what it computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from frontend import fp16
from frontend.source import Source
from lowering.package.source_table import SourceTable
from lowering.precision.calibration import Sample, worst
from lowering.precision.pins import Pin
from lowering.reference import LoadedModel
from lowering.reference.mixed import MixedProgram
from lowering.reference.program import Op
from lowering.verification.package_values import feed_of

# How many operators are run alone to say what each adds; a long loop has hundreds of equal ones.
_ALONE = 32


@dataclass
class Reasons:
    """Tells why something stays in float32.

    Args:
        mixed: the program.
        samples: the calls that float16 spoils.
        sources: where operators come from.
    """

    mixed: MixedProgram
    samples: Sequence[Sample]
    sources: SourceTable

    def __post_init__(self) -> None:
        self._exact = self.mixed.with_halves(())
        self._peaks: dict[str, float] = {}
        self._left = _ALONE
        for sample in self.samples:
            _note_peaks(self._exact, sample, self._peaks)

    def of_operators(self, names: Sequence[str]) -> tuple[Pin, ...]:
        """The operators ``names`` as pins, each with the user's line."""
        ops = {op.name: op for op in self._exact.ops}
        return tuple(
            Pin(name, ops[name].type, self.sources.lookup(name), self._of(ops[name]))
            for name in names
        )

    def of_ends(self, names: Sequence[str]) -> tuple[Pin, ...]:
        """The inputs and outputs ``names`` likewise."""
        return tuple(
            Pin(
                name,
                "input" if name in self._exact.inputs else "output",
                Source(),
                self._beyond("its numbers reach", self._peaks.get(name, 0.0))
                or _alone(worst(self.samples, self.mixed.with_halves((), [name]))),
            )
            for name in names
        )

    def _of(self, op: Op) -> str:
        made = max((self._peaks.get(output.name, 0.0) for output in op.outputs), default=0.0)
        names = [name for given in op.inputs.values() for name in given]
        read = max((self._peaks.get(name, 0.0) for name in names), default=0.0)
        return (
            self._beyond("its numbers reach", made)
            or self._beyond("it reads numbers up to", read)
            or self._measured(op.name)
        )

    def _measured(self, name: str) -> str:
        if not self._left:
            return "in float16 it and others add more than is allowed"
        self._left -= 1
        return _alone(worst(self.samples, self.mixed.with_halves([name])))

    def _beyond(self, words: str, peak: float) -> str:
        return f"{words} {peak:.3g}, and float16 ends at {fp16.MAX:g}" if peak > fp16.MAX else ""


def _alone(share: float) -> str:
    if share > 1:
        return f"in float16 it alone makes {share:.3g} times the error that is allowed"
    return f"in float16 it adds {share:.2g} of the error that is allowed, and others add theirs"


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
