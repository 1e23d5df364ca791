"""Runs a program exactly, and beside it as a float16 package would."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lowering.package.dtypes import FP16
from lowering.package.open import ModelLike
from lowering.reference.binding import Constant, Reference
from lowering.reference.model import LoadedModel, Observer
from lowering.reference.precision import round_to_fp16, rounded_to
from lowering.reference.program import Block, Op, Step, Value
from lowering.reference.states import State, StateCell
from lowering.verification.parity import rel_l2


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
    value: Any
    error: float


class RunBeside(LoadedModel):
    """A program that is computed twice, operator by operator.

    Only what differs is computed a second time: operators on integers and shapes are not.

    Args:
        model: as for ``LoadedModel``.
        half_of: makes the same program with operators in float16, such as :func:`as_declared`.
        half_inputs: names of inputs that are rounded; ``None`` for those declared float16.
        see: called with each pair of float or integer tensors.
    """

    def __init__(
        self,
        model: ModelLike,
        half_of: Callable[[LoadedModel], LoadedModel],
        see: See,
        half_inputs: Collection[str] | None = None,
    ) -> None:
        super().__init__(model, precision="fp32")
        if half_inputs is None:
            half_inputs = [item.name for item in self.program.inputs if item.dtype is FP16]
        self._half_inputs, self._see = frozenset(half_inputs), see
        self._twins = {step.op.name: step for step in half_of(self).program.steps()}
        self._shadows: dict[int, _Shadow] = {}

    def _arguments(
        self, inputs: Mapping[str, Any], state: State | None, halves: frozenset[int]
    ) -> list[Any]:
        registers = super()._arguments(inputs, state, halves)
        self._shadows = {}
        for index, item in enumerate(self.program.inputs):
            value = registers[index]
            if isinstance(value, Tensor) and value.dtype is not torch.bool:
                half = item.name in self._half_inputs
                rounded = round_to_fp16(value) if half else value
                error = difference(rounded, value)
                made = Op(item.name, "input", {}, {}, (item,))
                self._hold(index, ValuePair(made, item, value, rounded, error, 0.0, half))
        return registers

    def run(
        self,
        inputs: Mapping[str, Any],
        state: State | None = None,
        observer: Observer | None = None,
    ) -> dict[str, Any]:
        """As that of the exact program; it is watched, so that every operator comes by here."""
        return super().run(inputs, state, observer or _watch_nothing)

    def _computed(self, step: Step, registers: Sequence[Any]) -> tuple[Any, ...]:
        exact = super()._computed(step, registers)
        twin = self._twins[step.op.name]
        slots = sorted(step.call.slots())
        if twin is step and not any(index in self._shadows for index in slots):
            results: tuple[Any, ...] = exact
        else:
            results = self._rounded(twin, registers, exact)
        shadows = [self._shadows[index] for index in slots if index in self._shadows]
        inherited = max((shadow.error for shadow in shadows), default=0.0)
        values = (registers[index] for index in slots)
        read = tuple(v for v in values if isinstance(v, Tensor) and v.is_floating_point())
        for position, (value, other) in enumerate(zip(exact, results, strict=True)):
            target, output, how = (
                step.targets[position], step.op.outputs[position], twin.rounding[position]
            )  # fmt: skip
            if isinstance(value, Tensor) and value.dtype is not torch.bool:
                half = how is not None and how[1]
                error = difference(other, value)
                made = ValuePair(
                    op=step.op,
                    value=output,
                    exact=value,
                    rounded=other,
                    error=error,
                    inherited=inherited,
                    is_half=half,
                    read=read,
                )
                self._hold(target, made)
            elif other is not value:
                self._shadows[target] = _Shadow(other, 0.0)
        for index in step.free:
            self._shadows.pop(index, None)
        return exact

    def _hold(self, target: int, pair: ValuePair) -> None:
        """Shows a pair, and keeps what the operators after it read."""
        shadow = _Shadow(pair.rounded, pair.error)
        if self._see(pair):
            # Numbers that overflow stay as they are, so that what follows is judged by itself.
            healed = _within(pair.exact) if pair.is_half else pair.exact
            shadow = _Shadow(healed, difference(healed, pair.exact))
        if shadow.value is not pair.exact:
            self._shadows[target] = shadow

    def _rounded(
        self, twin: Step, registers: Sequence[Any], exact: Sequence[Any]
    ) -> tuple[Any, ...]:
        """The results of ``twin`` from rounded values; rounded ones where it cannot be repeated."""
        call = twin.call
        arguments = dict(call.constants)
        repeats = not twin.op.type.startswith("random_")
        for item in call.dynamic:
            values = [self._beside(reference, registers) for reference in item.references]
            repeats &= not any(isinstance(value, StateCell) for value in values)
            given = values[0] if item.single else values
            arguments[item.name] = item.convert(given) if item.convert else given
        results: object = exact
        if repeats and all(isinstance(value, Tensor) for value in exact):
            results = call.function(**arguments)
        results = results if isinstance(results, tuple) else (results,)
        return tuple(
            value if how is None else rounded_to(value, *how)
            for value, how in zip(results, twin.rounding, strict=True)
        )

    def _beside(self, reference: Reference, registers: Sequence[Any]) -> object:
        if isinstance(reference, Constant):
            return reference.value
        shadow = self._shadows.get(reference.index)
        return registers[reference.index] if shadow is None else shadow.value


def as_declared(model: LoadedModel) -> LoadedModel:
    """``model`` with every result that is declared float16 rounded, in any precision."""
    function = model.program
    return model.computing(replace(function, body=_declared(function.body)))


def _watch_nothing(op: Op, results: tuple[Any, ...], computed: tuple[Any, ...]) -> None:
    """An observer of whom nothing is asked."""


def _declared(block: Block) -> Block:
    steps = []
    for step in block.steps:
        rounding = tuple(how and (how[0], how[1] or how[0] is FP16) for how in step.rounding)
        inner = tuple(map(_declared, step.blocks))
        same = rounding == step.rounding and not inner
        steps.append(step if same else replace(step, rounding=rounding, blocks=inner))
    return replace(block, steps=tuple(steps))


def difference(found: object, exact: Tensor) -> float:
    """Relative L2 error of ``found``; infinite where it alone is infinite or NaN.

    Marks for infinity that are the same on both sides count as equal. 0.0 for sizes that differ:
    then a size depends on values, and nothing can be compared.
    """
    if found is exact or not isinstance(found, Tensor) or found.shape != exact.shape:
        return 0.0
    found, exact = found.float(), exact.float()
    norm, scale = _norm(found - exact), _norm(exact)
    if math.isfinite(norm) and math.isfinite(scale):
        return norm / (scale or 1.0)
    return rel_l2(found, exact)


def _norm(value: Tensor) -> float:
    return float(torch.linalg.vector_norm(value))


def _within(value: Tensor) -> Tensor:
    """``value`` rounded, but for what float16 has no number for."""
    if not value.is_floating_point():
        return value
    rounded = round_to_fp16(value)
    return torch.where(rounded.isinf(), value, rounded)
