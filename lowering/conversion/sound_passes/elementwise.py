"""Guards of the passes that drop or merge elementwise operators, casts and reductions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Block, Operation, Var, types
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil.passes.defs import (
    optimize_activation,
    optimize_elementwise_binary,
    optimize_repeat_ops,
)
from coremltools.converters.mil.mil.passes.defs.cleanup import fuse_reduce_mean, noop_elimination
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass

from frontend import fp16
from lowering.conversion.sound_passes.guards import Guard, constant_operand, is_private

Theirs = Callable[..., Any]

# A constant counts as the one of a formula within this share of it. coremltools' own patterns hold
# sqrt(2 / pi) to five digits, 5.7e-6 off.
_SAME = 1e-5
# Operators after which the last bit of their input may decide the result.
_STEPS = frozenset(
    {
        "floor", "ceil", "round", "floor_div", "mod", "sign", "equal", "not_equal", "greater",
        "greater_equal", "less", "less_equal",
    }
)  # fmt: skip
# Operators through which a value reaches a step as it is, or nearly so.
_CARRIERS = frozenset(
    {
        "add", "sub", "mul", "abs", "clip", "relu", "maximum", "minimum", "reshape", "transpose",
        "expand_dims", "squeeze", "concat", "split", "slice_by_index", "slice_by_size", "identity",
        "stack", "tile",
    }
)  # fmt: skip


def _no_effect(theirs: Theirs, op: Operation) -> object:
    """``noop_elimination``: a floor by one rounds, and a resize to its own size may shift."""
    if op.op_type == "floor_div" and types.is_float(op.x.dtype):
        return None
    if op.op_type in ("upsample_nearest_neighbor", "upsample_bilinear"):
        factors = (op.scale_factor_height, op.scale_factor_width)
        if any(factor.val is None or factor.val != 1 for factor in factors):
            return None
    if op.op_type == "resize_bilinear" and op.sampling_mode.val == "OFFSET_CORNERS":
        return None
    return theirs(op)


def _is_constant(theirs: Theirs, var: Var, value: float, tol: float = 0) -> bool:
    """A scalar constant is ``value``: relative to it, where coremltools allows 0.001 or 0.01.

    The sum of 2000 squares over 1999 is no mean.
    """
    found = var.val
    if not isinstance(found, np.ndarray | np.generic | int | float) or np.size(found) != 1:
        return False
    return bool(np.isclose(float(np.reshape(found, ())), float(value), rtol=_SAME, atol=0.0))


def _reduce_mean(theirs: Theirs, reduce_sum: Operation, block: Block) -> bool:
    return types.is_float(reduce_sum.x.dtype) and bool(theirs(reduce_sum, block))


def _divide_block(_: Theirs, self: AbstractGraphPass, block: Block) -> None:
    """``divide_to_multiply``, but for divisors whose reciprocal is not as good."""
    for op in list(block.operations):
        for inner in op.blocks:
            self._divide_to_multiply_block(inner)
        if op.op_type != "real_div" or op.y.val is None or not types.is_float(op.x.dtype):
            continue
        divisor = np.asarray(op.y.val)
        if _must_divide(op, divisor):
            continue
        with block:
            reciprocal = (1.0 / divisor.astype(np.float64)).astype(divisor.dtype)
            product = mb.mul(x=op.x, y=reciprocal, name=f"{op.name}_inverse", before_op=op)
        block.replace_uses_of_var_after_op(anchor_op=op, old_var=op.outputs[0], new_var=product)
        block.remove_ops([op])


def _must_divide(op: Operation, divisor: np.ndarray[Any, Any]) -> bool:
    magnitude = np.abs(divisor.astype(np.float64))
    usual = (magnitude * fp16.NORMAL <= 1) & (magnitude > fp16.NORMAL)
    if not bool(usual.all()):
        return True
    exact = bool((np.frexp(magnitude)[0] == 0.5).all())
    return not exact and _reaches_step(op)


def _reaches_step(op: Operation) -> bool:
    pending, seen = [op], {op}
    while pending:
        for child in (c for var in pending.pop().outputs for c in var.child_ops):
            if child.op_type in _STEPS or _is_cast_to_integer(child):
                return True
            if child.op_type in _CARRIERS and child not in seen:
                seen.add(child)
                pending.append(child)
    return False


def _is_cast_to_integer(op: Operation) -> bool:
    return op.op_type == "cast" and not op.dtype.val.startswith("fp")


def _select_by_scalar(theirs: Theirs, select: Operation, condition: Var) -> object:
    """The condition may be what gives the result its shape."""
    chosen = select.a if np.all(condition) else select.b
    return theirs(select, condition) if chosen.shape == select.outputs[0].shape else None


def _select_infinity(theirs: Theirs, *_: object) -> None:
    """Adding infinity is no selection: what is not selected may be infinite or NaN itself."""


def _batch_norm(theirs: Theirs, mul: Operation, add: Operation, block: Block) -> bool:
    """Scale and shift must have one element for each channel there is."""
    scale, shift = constant_operand(mul), constant_operand(add)
    if scale is None or shift is None:
        return False
    x = mul.y if scale is mul.x else mul.x
    same = x.shape == mul.outputs[0].shape == add.outputs[0].shape
    if not (same and types.is_float(x.dtype) and np.size(scale.val) == np.size(shift.val)):
        return False
    return bool(theirs(mul, add, block))


def _exact_gelu(theirs: Theirs, op: Operation, block: Block) -> bool:
    """The factor ``0.5 * x`` may have other readers; the pass deletes it."""
    source = next((var for var in (op.x, op.y) if var.val is None), None)
    halves = [] if source is None else [c for c in source.child_ops if _is_half(c)]
    return all(is_private(half) for half in halves) and bool(theirs(op, block))


def _is_half(op: Operation) -> bool:
    factor = constant_operand(op) if op.op_type == "mul" else None
    return factor is not None and bool(np.all(factor.val == 0.5))


def _prelu(theirs: Theirs, pattern: Any) -> bool:
    """The slopes must be as many as there are channels, not broadcast over one."""
    slopes = constant_operand(pattern.alpha_mul)
    return slopes is not None and slopes.val.size == pattern.root_var.shape[1] and theirs(pattern)


def _casts(theirs: Theirs, self: object, first: Operation, second: Operation) -> bool:
    """``0.5`` as an integer is false, as itself it is true; 2**24 + 1 as a float is even."""
    source, via = types.builtin_to_string(first.x.dtype), first.dtype.val
    if second.dtype.val == "bool" and via != "bool" and source != "bool":
        return False
    if source.startswith("int") and via.startswith("fp") and "int" in second.dtype.val:
        return False
    return bool(theirs(self, first, second))


TABLE = (
    Guard(noop_elimination, "_match_pattern", _no_effect),
    Guard(sys.modules[fuse_reduce_mean.__module__], "_check_var_scalar_value", _is_constant),
    Guard(fuse_reduce_mean, "_try_to_transform", _reduce_mean),
    Guard(optimize_activation, "_check_var_scalar_value", _is_constant),
    Guard(optimize_activation.fuse_gelu_exact, "_try_to_transform", _exact_gelu),
    Guard(optimize_activation.FusePreluPattern1, "is_var_constraint_satisifed", _prelu),
    Guard(optimize_activation.FusePreluPattern2, "is_var_constraint_satisifed", _prelu),
    Guard(optimize_repeat_ops.cast_optimization, "_is_cast_ops_fusable", _casts),
    Guard(
        optimize_elementwise_binary.divide_to_multiply, "_divide_to_multiply_block", _divide_block
    ),
    Guard(
        optimize_elementwise_binary.select_optimization,
        "try_to_transform_const_scalar_cond",
        _select_by_scalar,
    ),
    Guard(
        optimize_elementwise_binary.select_optimization,
        "try_to_transform_inf_const_selection",
        _select_infinity,
    ),
    Guard(
        optimize_elementwise_binary.fuse_elementwise_to_batchnorm, "_try_to_transform", _batch_norm
    ),
)
