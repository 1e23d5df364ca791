"""Integers narrower or wider than int32, the one integer that MIL computes with."""

from __future__ import annotations

import torch
from coremltools.converters.mil.mil import Builder, Var, types
from torch import fx

_aten = torch.ops.aten

# Operators whose integer results may lie outside of their operands' range. All others compare,
# select or move values.
ARITHMETIC = frozenset(
    {
        _aten.add, _aten.sub, _aten.rsub, _aten.mul, _aten.neg, _aten.pow, _aten.remainder,
        _aten.fmod, _aten.floor_divide, _aten.div, _aten.sum, _aten.cumsum, _aten.prod,
        _aten.cumprod, _aten.bitwise_and, _aten.bitwise_or, _aten.bitwise_xor,
        _aten.bitwise_not, _aten.bitwise_left_shift, _aten.bitwise_right_shift, _aten.__and__,
        _aten.__or__, _aten.__xor__, _aten.__lshift__, _aten.__rshift__, _aten.matmul, _aten.mm,
        _aten.bmm, _aten.mv, _aten.dot, _aten.addmm, _aten.einsum,
    }
)  # fmt: skip
_CASTS = frozenset({_aten._to_copy, _aten.to, _aten.type_as, _aten.abs})
_NARROW = (torch.uint8, torch.int8, torch.int16)


def wrapped(var: Var, expected: torch.Tensor, node: fx.Node) -> Var:
    """``var``, wrapped around as torch does it where the result of ``node`` is a narrow integer.

    MIL computes in int32, where ``200 + 100`` of two uint8 is 300; torch's result is 44.
    """
    packet = getattr(node.target, "overloadpacket", None)
    if expected.dtype not in _NARROW or not (packet in ARITHMETIC or packet in _CASTS):
        return var
    if packet in _CASTS - {_aten.abs} and _fits(node.args[0], expected.dtype):
        return var
    bounds = torch.iinfo(expected.dtype)
    low, count = bounds.min, bounds.max - bounds.min + 1
    name = f"{node.name}_wrapped"
    if not types.is_int(var.dtype):
        var = Builder.cast(x=var, dtype="int32", name=f"{name}_int32")
    if not low:
        return Builder.mod(x=var, y=count, name=name)
    shifted = Builder.mod(x=Builder.sub(x=var, y=low), y=count, name=f"{name}_mod")
    return Builder.add(x=shifted, y=low, name=name)


def _fits(source: object, dtype: torch.dtype) -> bool:
    """Every value of ``source``'s dtype is one of ``dtype``."""
    value = source.meta.get("val") if isinstance(source, fx.Node) else None
    if not isinstance(value, torch.Tensor) or value.dtype.is_floating_point:
        return False
    if value.dtype is torch.bool:
        return True
    inner, outer = torch.iinfo(value.dtype), torch.iinfo(dtype)
    return outer.min <= inner.min and inner.max <= outer.max
