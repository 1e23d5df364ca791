"""Which values a run carries as float16 numbers: those that nobody computes with in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowering.package.dtypes import FP16
from lowering.reference.binding import Slot
from lowering.reference.semantics import SEMANTICS

if TYPE_CHECKING:
    from lowering.reference.program import Function, Step, Value

# Operators that move numbers into memory of their own, and those that may give a view of theirs.
_COPIES = frozenset({"concat", "gather", "gather_along_axis", "stack", "tile"})
_VIEWS = frozenset(
    {
        "crop", "expand_dims", "flatten2d", "identity", "reshape", "reverse", "slice_by_index",
        "slice_by_size", "squeeze", "transpose",
    }
)  # fmt: skip
# Torch sums float16 numbers in float32 and rounds once, as the operator does.
_SUMS = frozenset({"reduce_mean", "reduce_sum"})


def half_registers(function: Function, halves: Sequence[bool]) -> frozenset[int]:
    """Registers whose value is carried as float16 while nobody watches the run.

    They are inputs, rounded results, and what is only moved, where all readers only move them, sum
    them, or are the caller, who gets float16: neither is widened to be narrowed again.

    Args:
        function: rounds what it declares as float16.
        halves: per output, whether the caller gets it as float16 numbers.
    """
    steps = function.body.steps
    values = dict(enumerate(function.inputs))
    values |= {t: v for step in steps for t, v in zip(step.targets, step.op.outputs, strict=True)}
    given = {item.index for item in function.body.outputs if isinstance(item, Slot)}
    pairs = zip(function.body.outputs, halves, strict=True)
    found = {index for index in range(len(function.inputs)) if index not in given}
    found |= {step.targets[0] for step in steps if _rounds(step) or _moves(step, values)}
    found = {index for index in found if _is_half(values[index])}
    found -= {item.index for item, half in pairs if isinstance(item, Slot) and not half}
    while True:
        widened: set[int] = set()
        for step in steps:
            reads = {index for index in step.reads() if index in values and _is_half(values[index])}
            moved = _moves(step, values)
            if _sums(step) or (moved and step.targets[0] in found and reads <= found):
                continue
            widened |= reads | set(step.targets if moved else ())
        if not widened & found:
            return frozenset(found)
        found -= widened


def may_be_view(step: Step) -> bool:
    """Whether the result of a step that moves numbers may be memory of what it reads."""
    return step.op.type in _VIEWS


def narrowed(value: object) -> object:
    """A result that is carried as float16."""
    return value.half() if isinstance(value, Tensor) and value.dtype is torch.float32 else value


def _is_half(value: Value) -> bool:
    return value.kind == "tensor" and value.dtype is FP16


def _rounds(step: Step) -> bool:
    return len(step.targets) == 1 and step.rounding[0] is not None and step.rounding[0][1]


def _sums(step: Step) -> bool:
    return _is_plain(step, _SUMS)


def _moves(step: Step, values: dict[int, Value]) -> bool:
    """Whether a step only moves numbers, none of which it would have to narrow first."""
    if not _is_plain(step, _COPIES | _VIEWS) or not _is_half(step.op.outputs[0]):
        return False
    references = [item for dynamic in step.call.dynamic for item in dynamic.references]
    constants = [value for value in step.call.constants.values() if isinstance(value, Tensor)]
    return (
        all(isinstance(item, Slot) and item.index in values for item in references)
        and not any(value.dtype is torch.float32 for value in constants)
        and "values" not in step.call.constants
    )


def _is_plain(step: Step, types: frozenset[str]) -> bool:
    """Whether a step is of one of the ``types``, and computes what their operators do."""
    return step.op.type in types and step.call.function is SEMANTICS[step.op.type]
