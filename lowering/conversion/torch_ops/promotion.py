"""Operators that torch takes for dtypes which coremltools 9.0 passes on to MIL as they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from coremltools.converters.mil.mil import Var, types

from lowering.conversion.builder import Lowered, Lowering, MilBuilder
from lowering.conversion.torch_ops.common import axis_of, cast

aten = torch.ops.aten


def _stack(mb: MilBuilder, values: Sequence[Var], dim: int = 0) -> Lowered:
    """Stacks integers beside floats, promoted as torch does it."""
    if len({types.builtin_to_string(value.dtype) for value in values}) == 1:
        return NotImplemented
    dtype = mb.result.dtype
    axis = axis_of(dim, values[0].rank + 1)
    return mb.stack(values=[cast(mb, value, dtype) for value in values], axis=axis)


def _softmax(mb: MilBuilder, x: Var, dim: int, dtype: torch.dtype | None = None) -> Lowered:
    """Of integers, where a float dtype is asked for."""
    if types.is_float(x.dtype):
        return NotImplemented
    return mb.softmax(x=cast(mb, x, mb.result.dtype), axis=axis_of(dim, x.rank))


def _extreme(which: str) -> Lowering:
    """``max`` and ``min`` of booleans along an axis: any and all, with a position."""

    def lower(mb: MilBuilder, x: Var, dim: int, keepdim: bool = False) -> Lowered:
        if not types.is_bool(x.dtype):
            return NotImplemented
        axis = axis_of(dim, x.rank)
        numbers = mb.cast(x=x, dtype="int32")
        value = getattr(mb, f"reduce_{which}")(x=numbers, axes=[axis], keep_dims=keepdim)
        place = getattr(mb, f"reduce_arg{which}")(x=numbers, axis=axis, keep_dims=keepdim)
        return mb.cast(x=value, dtype="bool"), place

    return lower


def _extreme_over(which: str) -> Lowering:
    """``amax`` and ``amin`` of booleans."""

    def lower(
        mb: MilBuilder, x: Var, dim: int | Sequence[int] = (), keepdim: bool = False
    ) -> Lowered:
        if not types.is_bool(x.dtype):
            return NotImplemented
        dims = [dim] if isinstance(dim, int) else list(dim) or list(range(x.rank))
        axes = [axis_of(d, x.rank) for d in dims]
        numbers = mb.cast(x=x, dtype="int32")
        value = getattr(mb, f"reduce_{which}")(x=numbers, axes=axes, keep_dims=keepdim)
        return mb.cast(x=value, dtype="bool")

    return lower


def _extreme_of_all(which: str) -> Lowering:
    """``max`` and ``min`` of all elements of a boolean tensor."""
    over = _extreme_over(which)
    return lambda mb, x: over(mb, x)


TABLE = {
    aten.stack.default: _stack,
    aten.softmax.int: _softmax,
    aten.max.dim: _extreme("max"),
    aten.min.dim: _extreme("min"),
    aten.max.default: _extreme_of_all("max"),
    aten.min.default: _extreme_of_all("min"),
    aten.amax.default: _extreme_over("max"),
    aten.amin.default: _extreme_over("min"),
}
