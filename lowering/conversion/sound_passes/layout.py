"""Guards of the passes that move, merge or drop padding, stacking, reshapes and transposes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Block, Operation, Var
from coremltools.converters.mil.mil.passes.defs import (
    optimize_normalization,
    optimize_repeat_ops,
    optimize_tensor_operation,
)
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass

from lowering.conversion.sound_passes.guards import Guard, is_output, is_private

Theirs = Callable[..., Any]

# Of instance norms of images: the channel axis, by the axes that are normalised.
_CHANNELS: dict[tuple[int, ...], tuple[int, ...]] = {(-2, -1): (-3,), (-3, -2): (-1,)}
_TRANSPOSES = optimize_repeat_ops._TransposeOptimization


def _paddings(theirs: Theirs, self: object, block: Block, pad: Operation) -> bool:
    """Two paddings in a row; reflected ones together may not reach beyond the input."""
    if pad.op_type != "pad" or not is_private(pad):
        return False
    child = pad.outputs[0].child_ops[0]
    if child.op_type != "pad" or pad.pad.val is None or child.pad.val is None:
        return False
    if pad.mode.val == "reflect":
        amounts = np.reshape(child.pad.val, (-1, 2)).max(axis=1)
        sizes = pad.x.shape[-len(amounts) :]
        fits = (isinstance(n, int) and a < n for a, n in zip(amounts, sizes, strict=True))
        if not all(fits):
            return False
    return bool(theirs(self, block, pad))


def _reflection(theirs: Theirs, concat: Operation, block: Block) -> bool:
    """Slices on both sides of their source once, which nobody else reads."""
    if concat.op_type != "concat" or concat.interleave.val:
        return False
    values = list(concat.values)
    source = values[len(values) // 2]
    slices = [var.op for var in values if var is not source]
    if len(slices) != len(values) - 1 or not all(op and is_private(op) for op in slices):
        return False
    return bool(theirs(concat, block))


def _stack_reshape(theirs: Theirs, stack: Operation) -> object:
    if stack.op_type == "stack" and is_output(stack):
        return None, None
    return theirs(stack)


def _stack_split(theirs: Theirs, block: Block, stack: Operation) -> None:
    """Each part must be squeezed, and read by nothing else."""
    for split in stack.outputs[0].child_ops:
        if split.op_type != "split":
            continue
        for part in split.outputs:
            readers = part.child_ops
            if len(readers) != 1 or readers[0].op_type != "squeeze" or part in block.outputs:
                return
    theirs(block, stack)


def _pixel_shuffle(theirs: Theirs, op: Operation) -> object:
    found = theirs(op)
    return found if found is not None and all(is_private(inner) for inner in found[1:]) else None


def _reshapes(theirs: Theirs, reshape: Operation) -> list[Operation]:
    """A zero among the sizes means the size of the reshape's own input."""
    merged: list[Operation] = theirs(reshape)
    for count, later in enumerate(merged[1:], 1):
        sizes = later.shape.val
        if sizes is None or 0 in sizes:
            return merged[:count]
    return merged


def _visit_axes(theirs: Theirs, self: AbstractGraphPass, op: Operation) -> None:
    """``reduce_transposes``: a reduction without axes, over all of them, is not looked into."""
    if op.op_type.startswith("reduce_") and op.axes is None:
        self._visit_materialize_op(op)
    else:
        theirs(self, op)


def _visit_unary(
    theirs: Theirs, self: AbstractGraphPass, op: Operation, input_var: Var | None = None
) -> None:
    """It takes ``pow`` and ``softplus_parametric`` for operators of one tensor."""
    others = [var for name, var in op.inputs.items() if name != "x" and isinstance(var, Var)]
    if any(var.val is None or np.size(var.val) > 1 for var in others):
        self._visit_materialize_op(op)
    else:
        theirs(self, op, input_var)


def _norm(
    theirs: Theirs,
    reduce: Operation,
    block: Block,
    gamma: Var | None,
    beta: Var | None,
    epsilon: Var,
    end: Operation,
    ops: list[Operation],
) -> bool:
    """Mean and variance over the same axes, and scales and shifts along those of the norm."""
    rank = reduce.x.rank
    axes = _from_the_end(reduce.axes.val, rank)
    reductions = [op for op in ops if op.op_type in ("reduce_mean", "reduce_sum")]
    if any(_from_the_end(op.axes.val, rank) != axes for op in reductions):
        return False
    if end.outputs[0].shape != reduce.x.shape:
        return False
    # An instance norm scales channels; a layer norm what it normalises.
    along = _CHANNELS.get(axes, axes) if rank == 4 else axes
    constants = [
        var
        for op in ops
        if op.op_type in ("mul", "add", "sub")
        for var in (op.x, op.y)
        if var.val is not None and np.size(var.val) > 1
    ]
    along = tuple(axis for axis in along if reduce.x.shape[axis] != 1)
    wanted = tuple(reduce.x.shape[axis] for axis in along)
    if any(_extent(np.shape(var.val)) != (along, wanted) for var in constants):
        return False
    return bool(theirs(reduce, block, gamma, beta, epsilon, end, ops))


def _from_the_end(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    return tuple(sorted(int(axis) - rank if axis >= 0 else int(axis) for axis in axes))


def _extent(shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Axes, counted from the end, along which a constant of ``shape`` varies, and their sizes."""
    varying = [axis for axis in range(-len(shape), 0) if shape[axis] != 1]
    return tuple(varying), tuple(shape[axis] for axis in varying)


TABLE = (
    Guard(optimize_repeat_ops.merge_consecutive_paddings, "_match_pattern", _paddings),
    Guard(optimize_repeat_ops.merge_consecutive_reshapes, "_match_pattern", _reshapes),
    Guard(optimize_tensor_operation.use_reflection_padding, "_match_pattern", _reflection),
    Guard(optimize_tensor_operation.replace_stack_reshape, "_match_operation", _stack_reshape),
    Guard(optimize_tensor_operation.fuse_stack_split, "_try_to_transform", _stack_split),
    Guard(optimize_tensor_operation.concat_to_pixel_shuffle, "_match_pattern", _pixel_shuffle),
    Guard(optimize_normalization.fuse_layernorm_or_instancenorm, "_try_apply_transform", _norm),
    Guard(_TRANSPOSES, "_visit_axis_update_op", _visit_axes),
    Guard(_TRANSPOSES, "_visit_unary_like_op", _visit_unary),
)
