"""Quotients and remainders of integers, in integers.

coremltools 9.0 divides them as floats, which hold whole numbers up to 2**24, and up to 2,048 where
the package computes in float16.
"""

from __future__ import annotations

import torch
from coremltools.converters.mil.mil import Var

from lowering.conversion.builder import Lowered, MilBuilder, Operand
from lowering.conversion.torch_ops.common import cast

aten = torch.ops.aten


def _floor_divide(mb: MilBuilder, x: Operand, y: Operand) -> Lowered:
    dtype = mb.result.dtype
    if dtype.is_floating_point:
        return NotImplemented
    return mb.floor_div(x=cast(mb, x, dtype), y=cast(mb, y, dtype))


def _divide(mb: MilBuilder, x: Operand, y: Operand, *, rounding_mode: str | None) -> Lowered:
    dtype = mb.result.dtype
    if dtype.is_floating_point or rounding_mode is None:
        return NotImplemented
    x, y = cast(mb, x, dtype), cast(mb, y, dtype)
    quotient = mb.floor_div(x=x, y=y)
    if rounding_mode == "floor":
        return quotient
    # Towards zero: one more where the quotient is negative and something remains.
    inexact = mb.not_equal(x=mb.mul(x=quotient, y=y), y=x)
    is_short = mb.logical_and(x=mb.less(x=quotient, y=0), y=inexact)
    return mb.add(x=quotient, y=mb.cast(x=is_short, dtype="int32"))


def _divide_by_number(
    mb: MilBuilder, x: Operand, y: Operand, *, rounding_mode: str | None
) -> Lowered:
    """As :func:`_divide`; coremltools has no lowering of this overload for floats either."""
    dtype = mb.result.dtype
    if not dtype.is_floating_point:
        return _divide(mb, x, y, rounding_mode=rounding_mode)
    quotient = mb.real_div(x=cast(mb, x, dtype), y=cast(mb, y, dtype))
    if rounding_mode == "floor":
        return mb.floor(x=quotient)
    if rounding_mode == "trunc":
        return mb.mul(x=mb.sign(x=quotient), y=mb.floor(x=mb.abs(x=quotient)))
    return quotient


def _remainder_of_number(mb: MilBuilder, x: Operand, y: Var) -> Var:
    dtype = mb.result.dtype
    return mb.mod(x=cast(mb, x, dtype), y=cast(mb, y, dtype))


TABLE = {
    aten.floor_divide.default: _floor_divide,
    aten.floor_divide.Scalar: _floor_divide,
    aten.div.Tensor_mode: _divide,
    aten.div.Scalar_mode: _divide_by_number,
    aten.remainder.Scalar_Tensor: _remainder_of_number,
}
