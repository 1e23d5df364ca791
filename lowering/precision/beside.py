"""Runs a program exactly, and beside it as a float16 package would."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from frontend import fp16
from lowering.package.open import ModelLike
from lowering.reference.binding import Reference, Slot
from lowering.reference.model import LoadedModel
from lowering.reference.precision import round_to_fp16
from lowering.reference.program import Op, Step, Value
from lowering.reference.states import State, StateCell

# The parameter that a norm casts with its other operands; of these operators coremltools leaves it.
_EPSILON = "epsilon"
_EPSILON_KEPT = frozenset({"inverse", "log", "rsqrt"})
# coremltools writes the smallest number for what would become zero, in constants up to this size.
_SMALL_CONSTANT = 400


@dataclass(frozen=True)
class ValuePair:
    """One value, computed exactly and in float16.

    Attributes:
        op: what computed it.
        value: as declared.
        exact: computed from exact values.
        rounded: computed from rounded values, and rounded.
        error: relative L2 error of ``rounded``; infinite where only it is infinite or NaN.
        inherited: the largest error among the values that the operator reads.
        is_half: the value is float16 in the package.
        read: the float values that the operator reads, exactly computed.
    """

    op: Op
    value: Value
    exact: Tensor
    rounded: Tensor
    error: float
    inherited: float
    is_half: bool
    read: tuple[Tensor, ...] = ()


# Sees a pair; whether its error is dealt with, so that what follows starts without it.
See: TypeAlias = Callable[[ValuePair], bool]


@dataclass(frozen=True)
class _Shadow:
    """What float16 makes of a value; ``is_half``: it is rounded already."""

    value: Any
    error: float
    is_half: bool


class RunBeside(LoadedModel):
    """A program that is computed twice, operator by operator.

    Only what differs is computed a second time: operators on integers and shapes are not.

    Args:
        model: as for ``LoadedModel``.
        is_half: whether an operator is float16 in the package.
        see: called with each pair of float or integer tensors.
        half_inputs: float inputs are float16 in the package.
    """

    def __init__(
        self,
        model: ModelLike,
        is_half: Callable[[Op], bool],
        see: See,
        half_inputs: bool = True,
    ) -> None:
        super().__init__(model, precision="fp32")
        self._is_half, self._see, self._half_inputs = is_half, see, half_inputs
        self._shadows: dict[int, _Shadow] = {}

    def _arguments(self, inputs: Mapping[str, Any], state: State | None) -> list[Any]:
        registers = super()._arguments(inputs, state)
        self._shadows = {}
        for index, (item, value) in enumerate(zip(self.program.inputs, registers, strict=False)):
            if isinstance(value, Tensor) and value.dtype is not torch.bool:
                half = self._half_inputs and value.is_floating_point()
                made = Op(item.name, "input", {}, {}, (item,))
                rounded = round_to_fp16(value) if half else value
                self._hold(
                    index,
                    ValuePair(made, item, value, rounded, difference(rounded, value), 0.0, half),
                )
        return registers

    def _computed(self, step: Step, registers: Sequence[Any]) -> tuple[Any, ...]:
        exact = super()._computed(step, registers)
        half = self._is_half(step.op)
        if half or any(index in self._shadows for index in step.call.slots()):
            self._keep(step, registers, exact, half)
        else:
            for output, value in zip(step.op.outputs, exact, strict=True):
                if isinstance(value, Tensor):
                    self._see(ValuePair(step.op, output, value, value, 0.0, 0.0, False))
        for index in step.free:
            self._shadows.pop(index, None)
        return exact

    def _keep(self, step: Step, registers: Sequence[Any], exact: Sequence[Any], half: bool) -> None:
        slots = step.call.slots()
        shadows = [self._shadows[index] for index in slots if index in self._shadows]
        inherited = max((shadow.error for shadow in shadows), default=0.0)
        values = (registers[index] for index in sorted(slots))
        read = tuple(v for v in values if isinstance(v, Tensor) and v.is_floating_point())
        rounded = self._rounded(step, registers, exact, half)
        for target, output, value, other in zip(
            step.targets, step.op.outputs, exact, rounded, strict=True
        ):
            if isinstance(value, Tensor) and value.dtype is not torch.bool:
                error = difference(other, value)
                made = ValuePair(step.op, output, value, other, error, inherited, half, read)
                self._hold(target, made)
            else:
                self._shadows[target] = _Shadow(other, 0.0, half)

    def _hold(self, target: int, pair: ValuePair) -> None:
        """Shows a pair, and keeps what the operators after it read."""
        shadow = _Shadow(pair.rounded, pair.error, pair.is_half)
        if self._see(pair):
            # Numbers that overflow stay as they are, so that what follows is judged by itself.
            healed = _within(pair.exact) if pair.is_half else pair.exact
            shadow = _Shadow(healed, difference(healed, pair.exact), pair.is_half)
        if shadow.value is not pair.exact:
            self._shadows[target] = shadow

    def _rounded(
        self, step: Step, registers: Sequence[Any], exact: Sequence[Any], half: bool
    ) -> tuple[Any, ...]:
        """The results of ``step`` from rounded values; rounded ones where it cannot be repeated."""
        call = step.call
        arguments = dict(call.constants)
        if half:
            for name, value in arguments.items():
                arguments[name] = _constant(step.op.type, name, value)
        repeats = all(isinstance(value, Tensor) for value in exact)
        for item in call.dynamic:
            values = [
                self._read_beside(reference, registers, half) for reference in item.references
            ]
            repeats &= not any(isinstance(value, StateCell) for value in values)
            given = values[0] if item.single else values
            arguments[item.name] = item.convert(given) if item.convert else given
        if not repeats or step.op.type.startswith("random_"):
            return tuple(_within(v) if half and isinstance(v, Tensor) else v for v in exact)
        results = call.function(**arguments)
        results = results if isinstance(results, tuple) else (results,)
        return tuple(
            _result(result, value, half) for result, value in zip(results, exact, strict=True)
        )

    def _read_beside(self, reference: Reference, registers: Sequence[Any], half: bool) -> object:
        if not isinstance(reference, Slot):
            return stored(reference.value) if half else reference.value
        shadow = self._shadows.get(reference.index)
        if shadow is None:
            return stored(registers[reference.index]) if half else registers[reference.index]
        return stored(shadow.value) if half and not shadow.is_half else shadow.value


def stored(value: object) -> object:
    """A float tensor, or a list of them, as float16 keeps it; anything else as it is."""
    if isinstance(value, list):
        return [stored(item) for item in value]
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return round_to_fp16(value.float())


def difference(found: Tensor, exact: Tensor) -> float:
    """Relative L2 error of ``found``; infinite where it alone is infinite or NaN.

    Marks for infinity that are the same on both sides count as equal. 0.0 for sizes that differ:
    then a size depends on values, and nothing can be compared.
    """
    if found is exact or found.shape != exact.shape or not exact.numel():
        return 0.0
    found, exact = found.float(), exact.float()
    norm, scale = _norm(found - exact), _norm(exact)
    if math.isfinite(norm) and math.isfinite(scale):
        return norm / (scale or 1.0)
    found, exact = found.double(), exact.double()
    same = (found == exact) | (found.isnan() & exact.isnan())
    delta = torch.where(same, 0.0, found - exact)
    known = exact.isfinite()
    if not bool(delta.isfinite().all()):
        return math.inf
    return _norm(delta) / (_norm(torch.where(known, exact, 0.0)) or 1.0)


def _norm(value: Tensor) -> float:
    return float(torch.linalg.vector_norm(value))


def _within(value: Tensor) -> Tensor:
    """``value`` rounded, but for what float16 has no number for."""
    if not value.is_floating_point():
        return value
    rounded = round_to_fp16(value)
    return torch.where(rounded.isinf(), value, rounded)


def _result(result: object, exact: Tensor, half: bool) -> object:
    if not isinstance(result, Tensor):
        return exact
    result = result.to(exact.dtype)
    return stored(result) if half else result


def _constant(op_type: str, name: str, value: object) -> object:
    """A constant argument as the package has it."""
    if isinstance(value, float) and name == _EPSILON and op_type not in _EPSILON_KEPT:
        return float(_kept_from_zero(torch.tensor(value)))
    if isinstance(value, Tensor) and value.is_floating_point():
        return _kept_from_zero(value)
    return stored(value)


def _kept_from_zero(value: Tensor) -> Tensor:
    rounded = round_to_fp16(value.float())
    if value.numel() < _SMALL_CONSTANT:
        lost = (rounded == 0) & (value != 0)
        rounded = torch.where(lost, value.sign() * fp16.SMALLEST, rounded)
    return rounded
