"""Arithmetic on sizes that are not known before the program runs: whole numbers in one element.

``x.shape[1] % 4`` is a node of the program, with one of Python's operators as its target. Whole
results are int32, as sizes are; coremltools 9.0 makes floats of quotients and lacks the others.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from coremltools.converters.mil.mil import Var

from lowering.conversion.builder import Lowered, Lowering, MilBuilder, Operand
from lowering.conversion.torch_ops.common import cast


def _binary(op_type: str) -> Lowering:
    """Of two sizes, or of a size and a number; in floats where the result is one."""

    def lower(mb: MilBuilder, x: Operand, y: Operand) -> Lowered:
        if isinstance(mb.result, torch.Tensor):
            return NotImplemented
        dtype = torch.float32 if isinstance(mb.result, torch.SymFloat) else torch.int32
        return getattr(mb, op_type)(x=cast(mb, x, dtype), y=cast(mb, y, dtype))

    return lower


def _whole(op_type: str | None) -> Lowering:
    """Rounds a float, and makes an int32 of it; ``None`` cuts off."""

    def lower(mb: MilBuilder, x: Operand) -> Var:
        x = cast(mb, x, torch.float32)
        return mb.cast(x=getattr(mb, op_type)(x=x) if op_type else x, dtype="int32")

    return lower


def _float(mb: MilBuilder, x: Operand) -> Var:
    return cast(mb, x, torch.float32)


def _square_root(mb: MilBuilder, x: Operand) -> Var:
    return mb.sqrt(x=cast(mb, x, torch.float32))


def _negative(mb: MilBuilder, x: Operand) -> Var:
    dtype = torch.float32 if isinstance(mb.result, torch.SymFloat) else torch.int32
    return mb.mul(x=cast(mb, x, dtype), y=cast(mb, -1, dtype))


def _power(mb: MilBuilder, x: Operand, y: Operand) -> Lowered:
    """A whole power of a size is a product: MIL's ``pow`` is of floats."""
    if isinstance(mb.result, torch.SymFloat):
        return mb.pow(x=cast(mb, x, torch.float32), y=cast(mb, y, torch.float32))
    if not isinstance(y, int) or y < 1:
        return NotImplemented
    size = power = cast(mb, x, torch.int32)
    for _ in range(y - 1):
        power = mb.mul(x=power, y=size)
    return power


def _shifted(op_type: str) -> Lowering:
    def lower(mb: MilBuilder, x: Operand, y: Operand) -> Lowered:
        if not isinstance(y, int):
            return NotImplemented
        return getattr(mb, op_type)(x=cast(mb, x, torch.int32), y=np.int32(1 << y))

    return lower


TABLE: Mapping[Callable[..., Any], Lowering] = {
    operator.add: _binary("add"),
    operator.sub: _binary("sub"),
    operator.mul: _binary("mul"),
    operator.floordiv: _binary("floor_div"),
    operator.mod: _binary("mod"),
    operator.truediv: _binary("real_div"),
    operator.pow: _power,
    operator.neg: _negative,
    operator.lshift: _shifted("mul"),
    operator.rshift: _shifted("floor_div"),
    torch.sym_max: _binary("maximum"),
    torch.sym_min: _binary("minimum"),
    torch.sym_float: _float,
    torch.sym_sqrt: _square_root,
    torch.sym_int: _whole(None),
    math.trunc: _whole(None),
    math.floor: _whole("floor"),
    math.ceil: _whole("ceil"),
    round: _whole("round"),
}
