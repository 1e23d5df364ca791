"""Collects the ranges of values, and judges each operator by what float16 makes of its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from frontend.source import Source
from lowering.package.open import ModelLike
from lowering.precision import limits
from lowering.precision.beside import RunBeside, ValuePair, as_declared
from lowering.precision.ends import InputCall
from lowering.precision.result import RangeFinding, ValueRange
from lowering.reference.model import LoadedModel
from lowering.verification.package_values import feed

OVERFLOW, VANISHES, LOST = "fp16-overflow", "fp16-vanishes", "fp16-lost-digits"
SUBNORMAL, ACCUMULATOR = "fp16-subnormal", "fp16-accumulator"
_KEPT_IN_32 = 'keep the operator in float32: convert(..., precision="safe")'


class Survey:
    """Runs a program on several calls and keeps what it finds.

    Args:
        model: the lowered program.
        sources: from the name of an operator to the user's line.
        half_of: makes the same program with operators in float16.
        half_inputs: names of inputs that are float16 in the package; ``None`` for those that are
            declared so.
        with_ranges: keep the range of every value too, which takes as long again as the run.

    Attributes:
        values: ranges by value.
        findings: by rule, kind of operator and place.
    """

    def __init__(
        self,
        model: ModelLike,
        sources: Callable[[str], Source],
        *,
        half_of: Callable[[LoadedModel], LoadedModel] = as_declared,
        half_inputs: Collection[str] | None = None,
        with_ranges: bool = True,
    ) -> None:
        self.model = RunBeside(model, half_of, self._see, half_inputs)
        self._sources, self._with_ranges = sources, with_ranges
        self._call = ""
        self._growth: tuple[float, ValuePair] | None = None
        self._errors: dict[str, float] = {}
        self._told: set[tuple[str, str, Source]] = set()
        self._judges = True
        self.values: dict[str, ValueRange] = {}
        self.findings: dict[tuple[str, str, Source], RangeFinding] = {}

    def run(self, call: InputCall) -> dict[str, float]:
        """One call from a fresh state; errors of the outputs by name, findings included.

        Raises:
            ExecutionError: the program cannot be run on these inputs.
        """
        self._call, self._growth, self._told = call.words, None, set()
        inputs = self.fed(call.inputs)
        outputs = self._errors_of(inputs)
        if self._told:
            # What was told of was put right for what follows it; now it takes its course.
            self._judges = False
            outputs = self._errors_of(inputs)
            self._judges = True
        effect = max(outputs.values(), default=0.0)
        if not self._told and self._growth is not None and effect > limits.OUTPUT:
            self._add_lost(self._growth[1], f"outputs are off by {effect:.1g} in the end")
        for key in self._told:
            known = self.findings[key]
            self.findings[key] = replace(known, effect=max(known.effect, effect))
        return outputs

    def _errors_of(self, inputs: Mapping[str, object]) -> dict[str, float]:
        """Runs the program; errors of its outputs."""
        self._errors = {}
        self.model.run(inputs, self.model.make_state())
        return {item.name: self._errors.get(item.name, 0.0) for item in self.model.program.outputs}

    def fed(self, inputs: Mapping[str, Tensor]) -> dict[str, object]:
        """``inputs`` as the program takes them, floats as they are: rounding them is looked at."""
        with np.errstate(over="ignore"):  # an input that overflows is a finding
            fed: dict[str, object] = dict(feed(self.model, inputs, {}))
        for name, tensor in zip(self.model.inputs, inputs.values(), strict=True):
            if tensor.is_floating_point():
                given = inputs.get(name, tensor).detach().float()
                fed[name] = given.reshape(given.shape or (1,)).numpy()
        return fed

    def _see(self, pair: ValuePair) -> bool:
        self._errors[pair.value.name] = pair.error
        if not self._judges:
            return False
        if self._with_ranges and pair.exact.is_floating_point():
            self._widen(pair)
        born = pair.error - pair.inherited
        if self._growth is None or born > self._growth[0]:
            self._growth = (born, pair)
        if math.isinf(pair.error):
            self._not_finite(pair)
            return True
        if pair.error > limits.LOST and pair.error >= limits.GROWTH * pair.inherited:
            self._lost(pair)
            return True
        if pair.is_half and pair.exact.is_floating_point():
            self._hardware(pair)
        return False

    def _not_finite(self, pair: ValuePair) -> None:
        peak = _peak(pair.exact)
        given = max(map(_peak, pair.read), default=0.0)
        if max(peak, given) > limits.OVERFLOW:
            own = f"values up to {peak:.3g}"
            what = own if peak > limits.OVERFLOW else f"operands of up to {given:.3g}"
            self._add(
                pair,
                OVERFLOW,
                f"{what} become infinite",
                "scale before, clamp, or " + _KEPT_IN_32,
            )
            return
        self._add(
            pair,
            VANISHES,
            "infinite or NaN in float16, where the exact values are at most "
            f"{peak:.3g}: something that it divides by, or takes the logarithm of, becomes 0",
            "scale what vanishes up, or " + _KEPT_IN_32,
        )

    def _lost(self, pair: ValuePair) -> None:
        peak = _peak(pair.exact)
        if peak < limits.VANISHES:
            self._add(
                pair,
                VANISHES,
                f"values up to {peak:.3g} lose {pair.error:.2g} of their size in float16, which "
                "ends at 6e-8",
                "scale up before, or " + _KEPT_IN_32,
            )
        else:
            self._add_lost(
                pair, f"values up to {peak:.3g} are off by {pair.error:.2g} of their size"
            )

    def _add_lost(self, pair: ValuePair, what: str) -> None:
        subject, remedy = limits.kind_of(pair.op.type)
        largest = max(map(_peak, pair.read), default=0.0)
        because = ""
        if largest > 1.0:
            step = limits.spacing(largest)
            because = f"; it reads numbers up to {largest:,.5g}, which are {step:.2g} apart there"
        self._add(pair, LOST, f"{what}: {subject} loses digits in float16{because}", remedy)

    def _hardware(self, pair: ValuePair) -> None:
        """What the interpreter's rounding does not show, and hardware is said to do."""
        peak = _peak(pair.exact) if pair.exact.numel() else 0.0
        if 0 < peak < limits.VANISHES:
            self._add(
                pair,
                SUBNORMAL,
                f"no value is above {peak:.3g}, and hardware may take less than 6.1e-5 for 0",
                "scale up before, or " + _KEPT_IN_32,
            )
        elif peak >= limits.ACCUMULATOR and pair.op.type in limits.SUMS_OF_PRODUCTS:
            self._add(
                pair,
                ACCUMULATOR,
                f"sums of up to {peak:.3g}: the accumulators of M4 and M6 end at 32,768 (reported)",
                "scale the weights down by a power of two, and the result up",
            )

    def _add(self, pair: ValuePair, rule: str, message: str, remedy: str) -> None:
        low, high = _extremes(pair.exact)
        found = RangeFinding(
            rule=rule,
            value=pair.value.name,
            op=pair.op.type,
            source=self._sources(pair.op.name),
            low=low,
            high=high,
            error=pair.error,
            message=message,
            remedy=remedy,
            call=self._call,
        )
        key = (rule, pair.op.type, found.source)
        known = self.findings.get(key)
        if known is None or known.error < found.error:
            self.findings[key] = found if known is None else replace(found, effect=known.effect)
        if rule not in (SUBNORMAL, ACCUMULATOR):
            self._told.add(key)

    def _widen(self, pair: ValuePair) -> None:
        name = pair.value.name
        low, high = _extremes(pair.exact)
        smallest = _smallest(pair.exact)
        known = self.values.get(name)
        if known is None:
            self.values[name] = ValueRange(
                value=name,
                op=pair.op.type,
                source=self._sources(pair.op.name),
                low=low,
                high=high,
                smallest=smallest,
                is_half=pair.is_half,
                error=pair.error,
            )
            return
        both = [size for size in (known.smallest, smallest) if size]
        self.values[name] = replace(
            known,
            low=min(known.low, low),
            high=max(known.high, high),
            smallest=min(both, default=0.0),
            error=max(known.error, pair.error),
        )


def _peak(value: Tensor) -> float:
    return max(map(abs, _extremes(value)))


def _extremes(value: Tensor) -> tuple[float, float]:
    """The smallest and the largest finite number; zeros where there is none."""
    if not value.numel():
        return 0.0, 0.0
    low, high = (float(end) for end in value.aminmax())
    if math.isfinite(low) and math.isfinite(high):
        return low, high
    finite = value[value.isfinite()]
    return (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 0.0)


def _smallest(value: Tensor) -> float:
    """The smallest magnitude above zero; 0.0 where there is none."""
    size = value.abs()
    found = float(torch.where(size > 0, size, math.inf).min()) if value.numel() else 0.0
    return found if math.isfinite(found) else 0.0
