"""Integers as bits: ``&`` ``|`` ``^`` ``<<`` ``>>``, which MIL has for booleans only.

Written with integer arithmetic (apple/coremltools#2468 lacks them): two's complement
is ``low bits - 2^n · sign``, and floor division and modulo give the low bits of negative numbers as
well. *Assumed*: Core ML's int32 arithmetic is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from coremltools.converters.mil.mil import Var

from lowering.conversion.builder import Lowering, MilBuilder, Operand
from lowering.conversion.torch_ops.common import cast

aten = torch.ops.aten

# Bits below the sign; 64-bit integers are 32-bit ones in MIL.
_LOW_BITS = {torch.uint8: 8, torch.int8: 7, torch.int16: 15, torch.int32: 31, torch.int64: 31}
_MOST_AXES = 4  # one more is needed for the bits


def _logical(op_type: str, combine: Callable[[Any, Var, Var], Var]) -> Callable[..., Var]:
    def lower(mb: MilBuilder, x: Operand, y: Operand) -> Var:
        dtype = mb.result.dtype
        if dtype == torch.bool:
            return getattr(mb, op_type)(x=cast(mb, x, dtype), y=cast(mb, y, dtype))
        x, y = cast(mb, x, dtype), cast(mb, y, dtype)
        if op_type == "logical_and" and (size := _low_mask(x, y)) is not None:
            return mb.mod(x=y if x.val is not None else x, y=np.int32(size))
        shape = [int(size) for size in mb.result.shape]
        if len(shape) > _MOST_AXES:
            x, y = (_flat(mb, value, shape) for value in (x, y))
        width = _LOW_BITS[dtype]
        low = combine(mb, _low_bits(mb, x, width), _low_bits(mb, y, width))
        powers = np.int32(1) << np.arange(width, dtype=np.int32)
        total = mb.reduce_sum(x=mb.mul(x=low, y=powers), axes=[-1], keep_dims=False)
        if dtype is not torch.uint8:
            signs = combine(mb, _sign_bit(mb, x), _sign_bit(mb, y))
            total = mb.add(x=total, y=mb.mul(x=signs, y=np.int32(-(2**width))))
        return mb.reshape(x=total, shape=shape) if len(shape) > _MOST_AXES else total

    return lower


def _low_mask(x: Var, y: Var) -> int | None:
    """``2^n`` where one side is the constant ``2^n - 1``, which keeps the remainder by it."""
    for side in (x, y):
        if side.val is not None and np.size(side.val) == 1:
            size = int(np.asarray(side.val).item()) + 1
            if 1 < size < 2**31 and size & (size - 1) == 0:
                return size
    return None


def _flat(mb: MilBuilder, x: Var, shape: list[int]) -> Var:
    whole = mb.add(x=x, y=np.zeros(shape, dtype=np.int32)) if list(x.shape) != shape else x
    return mb.reshape(x=whole, shape=[-1])


def _low_bits(mb: MilBuilder, x: Var, width: int) -> Var:
    """``x[..., None] // 2^n mod 2`` for each n below ``width``."""
    powers = np.int32(1) << np.arange(width, dtype=np.int32)
    last = mb.expand_dims(x=x, axes=[x.rank])
    return mb.mod(x=mb.floor_div(x=last, y=powers), y=np.int32(2))


def _sign_bit(mb: MilBuilder, x: Var) -> Var:
    return mb.cast(x=mb.less(x=x, y=np.int32(0)), dtype="int32")


def _and(mb: MilBuilder, a: Var, b: Var) -> Var:
    return mb.mul(x=a, y=b)


def _or(mb: MilBuilder, a: Var, b: Var) -> Var:
    return mb.maximum(x=a, y=b)


def _xor(mb: MilBuilder, a: Var, b: Var) -> Var:
    return mb.abs(x=mb.sub(x=a, y=b))


def _shift(left: bool) -> Callable[..., Var]:
    def lower(mb: MilBuilder, x: Operand, bits: Operand) -> Var:
        x = cast(mb, x, torch.int32)
        # 2^31 does not fit; a shift to the right by 31 leaves the sign, as one by 30 and 1 does.
        powers = np.int32(1) << np.minimum(np.arange(32, dtype=np.int32), 30)
        if isinstance(bits, Var) and bits.val is None:
            factor = mb.gather(x=powers, indices=cast(mb, bits, torch.int32), axis=0)
        else:
            factor = powers[np.asarray(bits.val if isinstance(bits, Var) else bits)]
        return mb.mul(x=x, y=factor) if left else mb.floor_div(x=x, y=factor)

    return lower


_LOGICAL = {
    ("and", "logical_and"): _and,
    ("or", "logical_or"): _or,
    ("xor", "logical_xor"): _xor,
}
_OVERLOADS = {
    "bitwise_{}": ("Tensor", "Scalar", "Scalar_Tensor"),
    "__{}__": ("Tensor", "Scalar"),
}

TABLE: dict[Any, Lowering] = {
    **{
        getattr(getattr(aten, form.format(name)), overload): _logical(op_type, combine)
        for (name, op_type), combine in _LOGICAL.items()
        for form, overloads in _OVERLOADS.items()
        for overload in overloads
    },
    aten.bitwise_left_shift.Tensor: _shift(left=True),
    aten.bitwise_left_shift.Tensor_Scalar: _shift(left=True),
    aten.bitwise_left_shift.Scalar_Tensor: _shift(left=True),
    aten.bitwise_right_shift.Tensor: _shift(left=False),
    aten.bitwise_right_shift.Tensor_Scalar: _shift(left=False),
    aten.bitwise_right_shift.Scalar_Tensor: _shift(left=False),
    aten.__lshift__.Scalar: _shift(left=True),
    aten.__lshift__.Tensor: _shift(left=True),
    aten.__rshift__.Scalar: _shift(left=False),
    aten.__rshift__.Tensor: _shift(left=False),
}
