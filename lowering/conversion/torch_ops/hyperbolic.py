"""Inverse hyperbolic functions and lengths, without squares of large or small numbers.

In float16 a square overflows from 256 on and is zero below 2.4e-4, and ``1 + x`` loses x. The
textbook forms, which coremltools 9.0 writes, hold between 0.1 and 200.
"""

from __future__ import annotations

import torch
from coremltools.converters.mil.mil import Var

from lowering.conversion.builder import Lowered, MilBuilder, Operand
from lowering.conversion.torch_ops.common import axis_of, cast
from lowering.conversion.torch_ops.logarithms import log1p

aten = torch.ops.aten


def _asinh(mb: MilBuilder, x: Var) -> Var:
    """``sign(x) (log(max(a, 1)) + log1p(r + m² / (1 + sqrt(1 + m²))))`` of ``a = |x|``.

    With ``r = min(a, 1)`` and ``m = min(a, 1 / a)``, which are at most 1: for a below 1 the second
    logarithm is all of it, above 1 it is that of ``1 + sqrt(1 + 1 / a²)``.
    """
    x = cast(mb, x, mb.result.dtype)
    size = mb.abs(x=x)
    above = mb.maximum(x=size, y=1.0)
    below = mb.minimum(x=size, y=1.0)
    square = mb.square(x=mb.minimum(x=size, y=mb.real_div(x=1.0, y=above)))
    root = mb.sqrt(x=mb.add(x=square, y=1.0))
    rest = mb.add(x=below, y=mb.real_div(x=square, y=mb.add(x=root, y=1.0)))
    return mb.mul(x=mb.sign(x=x), y=mb.add(x=mb.log(x=above, epsilon=0.0), y=log1p(mb, rest)))


def _acosh(mb: MilBuilder, x: Var) -> Var:
    """``log(x) + log1p(sqrt((x - 1) / x · (1 + 1 / x)))``; the difference is exact near 1."""
    x = cast(mb, x, mb.result.dtype)
    share = mb.real_div(x=mb.sub(x=x, y=1.0), y=x)
    squared = mb.mul(x=share, y=mb.add(x=mb.real_div(x=1.0, y=x), y=1.0))
    return mb.add(x=mb.log(x=x, epsilon=0.0), y=log1p(mb, mb.sqrt(x=squared)))


def _hypot(mb: MilBuilder, x: Operand, y: Operand) -> Var:
    """``m sqrt(1 + (n / m)²)``, m being the larger and n the smaller of the sizes."""
    sizes = [mb.abs(x=cast(mb, value, mb.result.dtype)) for value in (x, y)]
    larger, smaller = mb.maximum(x=sizes[0], y=sizes[1]), mb.minimum(x=sizes[0], y=sizes[1])
    ratio = mb.real_div(x=smaller, y=_not_zero(mb, larger))
    return mb.mul(x=larger, y=mb.sqrt(x=mb.add(x=mb.square(x=ratio), y=1.0)))


def _vector_norm(
    mb: MilBuilder,
    x: Var,
    order: Operand = 2,
    dim: int | list[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Lowered:
    """Of any other order than 1, 2 and infinity: the largest size times the norm of the shares."""
    if isinstance(order, Var) or order in (1, 2) or not 0 < order < float("inf"):
        return NotImplemented
    x = cast(mb, x, mb.result.dtype)
    dims = [dim] if isinstance(dim, int) else dim or list(range(x.rank))
    axes = [axis_of(d, x.rank) for d in dims]
    size = mb.abs(x=x)
    largest = mb.reduce_max(x=size, axes=axes, keep_dims=True)
    shares = mb.pow(x=mb.real_div(x=size, y=_not_zero(mb, largest)), y=float(order))
    total = mb.reduce_sum(x=shares, axes=axes, keep_dims=True)
    found = mb.mul(x=largest, y=mb.pow(x=total, y=1.0 / order))
    return found if keepdim else mb.squeeze(x=found, axes=axes)


def _not_zero(mb: MilBuilder, x: Var) -> Var:
    """``x``, and 1 where it is zero."""
    return mb.select(cond=mb.equal(x=x, y=0.0), a=1.0, b=x)


TABLE = {
    aten.asinh.default: _asinh,
    aten.acosh.default: _acosh,
    aten.hypot.default: _hypot,
    aten.linalg_vector_norm.default: _vector_norm,
}
