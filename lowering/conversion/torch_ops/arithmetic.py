"""Elementwise arithmetic that coremltools 9.0 lacks, or where it drops an argument.

Dropped silently in the torch.export route: ``alpha`` of ``add`` and ``sub``, which are keywords
there (apple/coremltools#2573). Wrong: ``reciprocal``, since MIL's ``inverse`` adds 1e-4 to its
input (apple/coremltools#2773), and ``atan2`` on the negative half of the x axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from coremltools.converters.mil.mil import Var, types

from lowering.conversion.builder import Lowered, Lowering, MilBuilder, Operand
from lowering.conversion.torch_ops.common import cast

aten = torch.ops.aten


def _scaled(op_type: str, swap: bool) -> Lowering:
    """``x ± alpha · y``; with ``swap``, ``y - alpha · x``."""

    def lower(mb: MilBuilder, x: Operand, y: Operand, *scalar: float, alpha: float = 1) -> Lowered:
        # rsub.Scalar takes alpha by position.
        alpha = scalar[0] if scalar else alpha
        if alpha == 1:
            return NotImplemented
        dtype = mb.result.dtype
        first, second = (
            (cast(mb, y, dtype), cast(mb, x, dtype))
            if swap
            else (
                cast(mb, x, dtype),
                cast(mb, y, dtype),
            )
        )
        return getattr(mb, op_type)(x=first, y=mb.mul(x=second, y=cast(mb, alpha, dtype)))

    return lower


def _of_float(lower: Callable[[Any, Var], Var]) -> Callable[..., Var]:
    """``lower`` on an input that is cast to the result's float type; MIL takes no integers."""

    def on_float(mb: MilBuilder, x: Var) -> Var:
        return lower(mb, cast(mb, x, mb.result.dtype))

    return on_float


def _unary(op_type: str) -> Callable[..., Var]:
    return _of_float(lambda mb, x: getattr(mb, op_type)(x=x))


def _trunc(mb: MilBuilder, x: Var) -> Var:
    if types.is_int(x.dtype):
        return x
    return mb.mul(x=mb.sign(x=x), y=mb.floor(x=mb.abs(x=x)))


def _whole(mb: MilBuilder, x: Var) -> Lowered:
    """``floor``, ``ceil`` and ``round`` leave integers as they are; MIL's take floats only."""
    return x if types.is_int(x.dtype) else NotImplemented


def _frac(mb: MilBuilder, x: Var) -> Var:
    return mb.sub(x=x, y=_trunc(mb, x))


def _fmod(mb: MilBuilder, x: Operand, y: Operand) -> Var:
    """Remainder with the sign of ``x``; MIL's ``mod`` has the sign of ``y``."""
    dtype = mb.result.dtype
    x, y = cast(mb, x, dtype), cast(mb, y, dtype)
    return mb.mul(x=mb.sign(x=x), y=mb.mod(x=mb.abs(x=x), y=mb.abs(x=y)))


def _round_decimals(mb: MilBuilder, x: Var, *, decimals: int) -> Var:
    scale = 10.0**decimals
    return mb.mul(x=mb.round(x=mb.mul(x=x, y=scale)), y=1.0 / scale)


def _reciprocal(mb: MilBuilder, x: Var) -> Var:
    return mb.real_div(x=1.0, y=x)


def _erfc(mb: MilBuilder, x: Var) -> Var:
    return mb.sub(x=1.0, y=mb.erf(x=x))


def _atan2(mb: MilBuilder, y: Operand, x: Operand) -> Var:
    """The angle of (x, y); coremltools gives 0 for y = 0 beside a negative x. -0.0 is as 0.0."""
    y, x = (cast(mb, value, mb.result.dtype) for value in (y, x))
    upright = mb.equal(x=x, y=0.0)
    slope = mb.real_div(x=y, y=mb.select(cond=upright, a=1.0, b=x))
    half_turn = mb.select(cond=mb.less(x=y, y=0.0), a=-math.pi, b=math.pi)
    angle = mb.atan(x=slope)
    angle = mb.select(cond=mb.less(x=x, y=0.0), a=mb.add(x=angle, y=half_turn), b=angle)
    return mb.select(cond=upright, a=mb.mul(x=mb.sign(x=y), y=math.pi / 2), b=angle)


def _extreme(op_type: str) -> Callable[..., Var]:
    """``fmax`` and ``fmin`` of numbers; a NaN is not told apart."""

    def lower(mb: MilBuilder, x: Operand, y: Operand) -> Var:
        dtype = mb.result.dtype
        return getattr(mb, op_type)(x=cast(mb, x, dtype), y=cast(mb, y, dtype))

    return lower


def _copysign(mb: MilBuilder, x: Operand, y: Operand) -> Var:
    """MIL cannot tell -0.0 from 0.0, which counts as positive here."""
    dtype = mb.result.dtype
    size, sign = mb.abs(x=cast(mb, x, dtype)), cast(mb, y, dtype)
    return mb.select(cond=mb.less(x=sign, y=0.0), a=mb.mul(x=size, y=-1.0), b=size)


def _signbit(mb: MilBuilder, x: Var) -> Var:
    return mb.less(x=x, y=cast(mb, 0, mb.operand(0).dtype))


def _isinf(mb: MilBuilder, x: Var) -> Var:
    # Half of infinity is infinity, and of no other number but zero is the half the number itself.
    half = mb.mul(x=x, y=0.5)
    return mb.logical_and(x=mb.equal(x=half, y=x), y=mb.not_equal(x=x, y=0.0))


def _compare(op_type: str) -> Lowering:
    """MIL orders numbers only; booleans compare as 0 and 1."""

    def lower(mb: MilBuilder, x: Operand, y: Operand) -> Lowered:
        operands = [x, y]
        if not any(_is_bool(operand) for operand in operands):
            return NotImplemented
        # Against a float the booleans must be floats as well, or 0.5 would become 0.
        dtype = torch.float32 if any(_is_float(operand) for operand in operands) else torch.int32
        a, b = (cast(mb, operand, dtype) for operand in operands)
        return getattr(mb, op_type)(x=a, y=b)

    return lower


def _is_bool(value: Operand) -> bool:
    return types.is_bool(value.dtype) if isinstance(value, Var) else isinstance(value, bool)


def _is_float(value: Operand) -> bool:
    return types.is_float(value.dtype) if isinstance(value, Var) else isinstance(value, float)


_COMPARISONS = {
    "greater": aten.gt,
    "greater_equal": aten.ge,
    "less": aten.lt,
    "less_equal": aten.le,
    "equal": aten.eq,
    "not_equal": aten.ne,
}
_FLOAT_OPS = {
    aten.sqrt: "sqrt",
    aten.exp: "exp",
    aten.exp2: "exp2",
    aten.sin: "sin",
    aten.cos: "cos",
    aten.tan: "tan",
    aten.sinh: "sinh",
    aten.cosh: "cosh",
    aten.tanh: "tanh",
    aten.asin: "asin",
    aten.acos: "acos",
    aten.atan: "atan",
    aten.atanh: "atanh",
    aten.erf: "erf",
    aten.sigmoid: "sigmoid",
}

TABLE = {
    aten.add.Tensor: _scaled("add", False),
    aten.add.Scalar: _scaled("add", False),
    aten.sub.Tensor: _scaled("sub", False),
    aten.sub.Scalar: _scaled("sub", False),
    aten.rsub.Tensor: _scaled("sub", True),
    aten.rsub.Scalar: _scaled("sub", True),
    aten.trunc.default: _trunc,
    aten.fix.default: _trunc,
    aten.floor.default: _whole,
    aten.ceil.default: _whole,
    aten.round.default: _whole,
    aten.frac.default: _frac,
    aten.fmod.Scalar: _fmod,
    aten.fmod.Tensor: _fmod,
    aten.round.decimals: _round_decimals,
    aten.reciprocal.default: _of_float(_reciprocal),
    aten.erfc.default: _of_float(_erfc),
    aten.atan2.default: _atan2,
    aten.fmax.default: _extreme("maximum"),
    aten.fmin.default: _extreme("minimum"),
    aten.copysign.Tensor: _copysign,
    aten.copysign.Scalar: _copysign,
    aten.signbit.default: _signbit,
    aten.isinf.default: _isinf,
    **{packet.default: _unary(op_type) for packet, op_type in _FLOAT_OPS.items()},
    **{packet.Tensor: _compare(op_type) for op_type, packet in _COMPARISONS.items()},
    **{packet.Scalar: _compare(op_type) for op_type, packet in _COMPARISONS.items()},
}
