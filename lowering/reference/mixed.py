"""A float32 program as it would run with some of its operators in float16."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lowering.reference.binding import BoundCall, Dynamic, Semantics, Slot
from lowering.reference.model import LoadedModel
from lowering.reference.precision import round_to_fp16
from lowering.reference.program import Block, Op, Step, Value

# Constants with so many elements or more may vanish when coremltools casts them; in smaller ones
# what would become zero becomes float16's smallest number (coremltools 9.0, FP16ComputePrecision).
_MAY_VANISH = 400
_SMALLEST = 2.0**-24


class MixedProgram:
    """A float32 program, ready to be run with any set of operators in float16.

    An operator in float16 has its operands and its result rounded, as casts around it would do.

    Args:
        model: the program in float32.
        casts: the parameters that are cast, of every operator that may compute in float16.
    """

    def __init__(self, model: LoadedModel, casts: Mapping[str, Collection[str]]) -> None:
        self.model = model
        self._casts = casts
        # Rounded once: every set of operators uses the same steps.
        self._rounded = {
            step.op.name: _rounded(step, casts[step.op.name])
            for step in _steps(model.program.body)
            if step.op.name in casts and not step.blocks
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The operators that may compute in float16, in program order."""
        return tuple(self._rounded)

    def with_halves(self, names: Collection[str], ends: Collection[str] = ()) -> LoadedModel:
        """The program with the operators ``names`` in float16, and all others in float32.

        Args:
            names: operators, among ``names``.
            ends: inputs and outputs that are float16 as well.
        """
        function = self.model.program
        body = self._block(function.body, names)
        taken = [
            _rounding(item, Slot(index))
            for index, item in enumerate(function.inputs)
            if item.name in ends
        ]
        given = [
            _rounding(item, reference)
            for item, reference in zip(function.outputs, body.outputs, strict=True)
            if item.name in ends and isinstance(reference, Slot)
        ]
        body = replace(body, steps=(*taken, *body.steps, *given))
        return self.model.computing(replace(function, body=body))

    def with_functions(self, made: Mapping[str, Callable[[Semantics], Semantics]]) -> LoadedModel:
        """The program in float32, in which operators outside of blocks compute something else.

        Args:
            made: of each operator, by name, what makes its function of the one that it has.
        """

        def changed(step: Step) -> Step:
            if step.op.name not in made:
                return step
            function = made[step.op.name](step.call.function)
            call = replace(step.call, function=function)
            return replace(step, call=call, overwrites=False)

        function = self.model.program
        steps = tuple(map(changed, function.body.steps))
        return self.model.computing(replace(function, body=replace(function.body, steps=steps)))

    def _block(self, block: Block, names: Collection[str]) -> Block:
        return replace(block, steps=tuple(self._step(step, names) for step in block.steps))

    def _step(self, step: Step, names: Collection[str]) -> Step:
        if step.blocks:
            return replace(step, blocks=tuple(self._block(inner, names) for inner in step.blocks))
        return self._rounded[step.op.name] if step.op.name in names else step


def _steps(block: Block) -> list[Step]:
    found = []
    for step in block.steps:
        found.append(step)
        for inner in step.blocks:
            found += _steps(inner)
    return found


def _rounding(value: Value, slot: Slot) -> Step:
    """Rounds a value in its place."""
    call = BoundCall(_in_half, {}, (Dynamic("x", (slot,), None, True),))
    op = Op(f"{value.name} in float16", "cast", {"x": (value.name,)}, {}, (value,))
    return Step(op, call, (slot.index,), (None,))


def _in_half(x: Tensor) -> object:
    return _round(x)


def _rounded(step: Step, cast: Collection[str]) -> Step:
    call = step.call
    constants = {
        name: _constant(value) if name in cast else value for name, value in call.constants.items()
    }
    computed = [item.name for item in call.dynamic if item.name in cast]

    def function(**arguments: object) -> object:
        for name in computed:
            arguments[name] = _round(arguments[name])
        return call.function(**arguments)

    rounding = tuple(
        how if how is None or not how[0].is_float else (how[0], True) for how in step.rounding
    )
    made = BoundCall(function, constants, call.dynamic)
    return replace(step, call=made, rounding=rounding, overwrites=False)


def _round(value: object) -> object:
    if isinstance(value, list):
        return [_round(item) for item in value]
    if isinstance(value, Tensor) and value.is_floating_point():
        return round_to_fp16(value)
    return value


def _constant(value: object) -> object:
    if isinstance(value, float):
        return float(_small(torch.tensor(value)))
    if isinstance(value, list):
        return [_constant(item) for item in value]
    return _small(value) if isinstance(value, Tensor) and value.is_floating_point() else value


def _small(value: Tensor) -> Tensor:
    """A constant as coremltools casts it."""
    rounded = round_to_fp16(value)
    if value.numel() >= _MAY_VANISH:
        return rounded
    vanished = (rounded == 0) & (value != 0)
    return torch.where(vanished, torch.copysign(torch.tensor(_SMALLEST), value), rounded)
