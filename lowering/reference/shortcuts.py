"""What a run may leave out where nobody watches it: copies and roundings that nobody would see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from lowering.reference.binding import BoundCall, Semantics, Slot
from lowering.reference.half_lane import half_registers, may_be_view, narrowed
from lowering.reference.precision import OWN_RESULTS, rounded_to
from lowering.reference.semantics.slicing import slice_update, write_slice

if TYPE_CHECKING:
    from lowering.reference.program import Function, Step

# From the registers to the one result of a step.
Run: TypeAlias = Callable[[Sequence[object]], object]

# Operators that change a copy of ``x``, by what changes ``x`` itself.
_IN_PLACE: Mapping[Semantics, Semantics] = {slice_update: write_slice}


def run_of(step: Step) -> Run | None:
    """Computes and rounds the result of a step that has one; ``None`` for control flow and others.

    A small operator costs what it takes to come to it, so what is known before is decided here.
    """
    if step.blocks or len(step.targets) != 1:
        return None
    call, (how,) = step.call, step.rounding
    if step.overwrites:
        call = replace(call, function=_IN_PLACE[call.function])
    compute = _compute(call)
    if how is None:
        return compute
    dtype, rounds = how
    in_place = rounds and step.op.type in OWN_RESULTS

    def rounded(registers: Sequence[object]) -> object:
        made = compute(registers)
        if isinstance(made, Tensor):
            if in_place and made.dtype is torch.float32:
                return made.copy_(made.half())
            if rounds and made.dtype is torch.float16:  # of sums of float16 numbers
                return made.float()
        return rounded_to(made, dtype, rounds)

    def half(registers: Sequence[object]) -> object:
        return narrowed(compute(registers))

    def copied(registers: Sequence[object]) -> object:
        made = narrowed(compute(registers))
        return (
            made.clone(memory_format=torch.contiguous_format) if isinstance(made, Tensor) else made
        )

    if step.is_half:
        return copied if step.is_copied else half
    return rounded


def _compute(call: BoundCall) -> Run:
    function, constants = call.function, call.constants
    direct, indirect = call.direct, call.indirect

    def single(registers: Sequence[object]) -> object:
        arguments = constants.copy()
        for name, index in direct:
            arguments[name] = registers[index]
        for item in indirect:
            arguments[item.name] = item.read(registers)
        made = function(**arguments)
        if isinstance(made, tuple):
            (made,) = made
        return made

    return single


def shortened(function: Function, halves: Sequence[bool], rounds: bool) -> Function:
    """``function`` with the steps marked whose copies or roundings nobody would see.

    Args:
        halves: per output, whether the caller gets it as float16 numbers.
        rounds: whether values declared float16 are rounded.
    """
    body = function.body
    reads = [step.reads() for step in body.steps]
    # Of each register, the last step that reads it; the caller reads after all.
    last = {index: at for at, found in enumerate(reads) for index in found}
    given = {item.index for item in body.outputs if isinstance(item, Slot)}
    narrow = half_registers(function, halves) if rounds else frozenset()
    last |= dict.fromkeys(given, len(reads))
    aliases = _Aliases(function, last)
    steps = []
    for at, step in enumerate(body.steps):
        if not narrow.isdisjoint(step.targets):
            is_copied = may_be_view(step) and not given.isdisjoint(step.targets)
            step = replace(step, is_half=True, is_copied=is_copied)
        if aliases.may_overwrite(step, at):
            step = replace(step, overwrites=True)
        aliases.add(step, reads[at])
        steps.append(step)
    half_inputs = frozenset(index for index in narrow if index < len(function.inputs))
    body = replace(body, steps=tuple(steps))
    return replace(function, body=body, half_inputs=half_inputs)


class _Aliases:
    """Which registers may share memory, and whose memory belongs to the run alone."""

    def __init__(self, function: Function, last: Mapping[int, int]) -> None:
        self._last = last
        self._groups: dict[int, set[int]] = {}
        self._own: set[int] = set()
        # A state is alive after the run, and so is what is written to it.
        self._kept: set[int] = set()
        for index, item in enumerate(function.inputs):
            (self._kept if item.kind == "state" else self._own).add(index)

    def may_overwrite(self, step: Step, at: int) -> bool:
        """Whether ``x`` of the step is memory that nobody else reads in it or after it.

        Args:
            at: the step's place.
        """
        direct = dict(step.call.direct)
        own = direct.get("x")
        if step.call.function not in _IN_PLACE or own is None or own not in self._own:
            return False
        alive = {index for index in self._group(own) if self._last.get(index, -1) > at}
        beside = step.reads() - {own}
        return not alive and not self._group(own) & (self._kept | beside)

    def add(self, step: Step, reads: set[int]) -> None:
        """Follows a step."""
        if step.op.type in OWN_RESULTS or (step.call.function in _IN_PLACE and not step.overwrites):
            self._own.update(step.targets)
            return
        if step.overwrites:
            self._own.update(step.targets)
            reads = {dict(step.call.direct)["x"]}
        if not step.targets:
            self._kept.update(*(self._group(index) for index in reads))
        joined = self._group(max(reads, key=lambda index: len(self._group(index)), default=-1))
        for index in (*reads, *step.targets):
            group = self._group(index)
            if group is not joined:
                joined |= group
                self._groups |= dict.fromkeys(group, joined)

    def _group(self, index: int) -> set[int]:
        """Registers that may share memory with one."""
        return self._groups.setdefault(index, {index})
