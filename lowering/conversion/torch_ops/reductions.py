"""Reductions: variance with any correction, products, ``argmax`` of everything.

coremltools 9.0 ignores ``correction`` where it is a keyword, as it is in the torch.export route.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from coremltools.converters.mil.mil import Var

from lowering.conversion.builder import Lowered, Lowering, MilBuilder
from lowering.conversion.torch_ops.common import axis_of, cast, sizes_of

aten = torch.ops.aten

# One axis, several, or all of them.
Axes = int | Sequence[int] | None


def _axes(dim: Axes, rank: int) -> list[int]:
    """Axes of a reduction over ``dim``: a number, a list, or all of them."""
    if dim is None or dim == []:
        return list(range(rank))
    dims = [dim] if isinstance(dim, int) else dim
    return [axis_of(d, rank) for d in dims]


def _variance(mb: MilBuilder, x: Var, dim: Axes, correction: float | None, keepdim: bool) -> Var:
    axes = _axes(dim, x.rank)
    mean = mb.reduce_mean(x=x, axes=axes, keep_dims=True)
    spread = mb.reduce_mean(x=mb.square(x=mb.sub(x=x, y=mean)), axes=axes, keep_dims=keepdim)
    correction = 1.0 if correction is None else float(correction)
    if correction == 0:
        return spread
    return mb.mul(x=spread, y=_bessel(mb, [sizes_of(mb, x)[axis] for axis in axes], correction))


def _bessel(mb: MilBuilder, sizes: Sequence[Any], correction: float) -> Lowered:
    """``n / (n - correction)`` for ``n`` elements."""
    if all(isinstance(size, int) for size in sizes):
        count = math.prod(sizes)
        return count / (count - correction) if count != correction else float("nan")
    count = _count(mb, sizes)
    return mb.real_div(x=count, y=mb.sub(x=count, y=correction))


def _count(mb: MilBuilder, sizes: Sequence[Any]) -> Var:
    """The product of ``sizes``, some of which the program computes, as a float."""
    count = 1.0
    for size in sizes:
        count = mb.mul(x=cast(mb, size, torch.float32), y=count)
    return count


def _var(
    mb: MilBuilder,
    x: Var,
    dim: Axes = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> Var:
    return _variance(mb, x, dim, correction, keepdim)


def _std(
    mb: MilBuilder,
    x: Var,
    dim: Axes = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> Var:
    """The norm of what differs from the mean, over the root of the count: no square in between."""
    axes = _axes(dim, x.rank)
    centred = mb.sub(x=x, y=mb.reduce_mean(x=x, axes=axes, keep_dims=True))
    length = mb.reduce_l2_norm(x=centred, axes=axes, keep_dims=keepdim)
    correction = 1.0 if correction is None else float(correction)
    sizes = [sizes_of(mb, x)[axis] for axis in axes]
    if all(isinstance(size, int) for size in sizes):
        count = math.prod(sizes) - correction
        return mb.mul(x=length, y=count**-0.5 if count > 0 else math.inf)
    count = mb.sub(x=_count(mb, sizes), y=correction)
    return mb.mul(x=length, y=mb.rsqrt(x=count, epsilon=0.0))


def _var_mean(
    mb: MilBuilder,
    x: Var,
    dim: Axes = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> tuple[Var, Var]:
    mean = mb.reduce_mean(x=x, axes=_axes(dim, x.rank), keep_dims=keepdim)
    return _variance(mb, x, dim, correction, keepdim), mean


def _std_mean(
    mb: MilBuilder,
    x: Var,
    dim: Axes = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> tuple[Var, Var]:
    mean = mb.reduce_mean(x=x, axes=_axes(dim, x.rank), keep_dims=keepdim)
    return _std(mb, x, dim, correction=correction, keepdim=keepdim), mean


def _prod(mb: MilBuilder, x: Var, *, dtype: torch.dtype | None = None) -> Var:
    x = cast(mb, x, mb.result.dtype)
    return mb.reduce_prod(x=x, axes=_axes(None, x.rank), keep_dims=False)


def _prod_dim(
    mb: MilBuilder, x: Var, dim: int, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Var:
    x = cast(mb, x, mb.result.dtype)
    return mb.reduce_prod(x=x, axes=_axes(dim, x.rank), keep_dims=keepdim)


def _arg(op_type: str) -> Lowering:
    """The position in the flattened tensor when no axis is given."""

    def lower(mb: MilBuilder, x: Var, dim: int | None = None, keepdim: bool = False) -> Lowered:
        if dim is not None:
            return NotImplemented
        flat = mb.reshape(x=x, shape=[-1])
        found = getattr(mb, op_type)(x=flat, axis=0, keep_dims=keepdim)
        return mb.reshape(x=found, shape=[1] * x.rank) if keepdim else found

    return lower


def _holds(op_type: str) -> Callable[..., Var]:
    """``all`` and ``any``: the least and the greatest of booleans."""

    def lower(mb: MilBuilder, x: Var, dim: Axes = None, keepdim: bool = False) -> Var:
        number = cast(mb, cast(mb, x, torch.bool), torch.int32)
        if not x.rank:
            return mb.cast(x=number, dtype="bool")
        found = getattr(mb, op_type)(x=number, axes=_axes(dim, x.rank), keep_dims=keepdim)
        return mb.cast(x=found, dtype="bool")

    return lower


_ALL, _ANY = _holds("reduce_min"), _holds("reduce_max")

TABLE = {
    aten.var.correction: _var,
    aten.std.correction: _std,
    aten.var_mean.correction: _var_mean,
    aten.std_mean.correction: _std_mean,
    aten.prod.default: _prod,
    aten.prod.dim_int: _prod_dim,
    aten.argmax.default: _arg("reduce_argmax"),
    aten.argmin.default: _arg("reduce_argmin"),
    aten._is_all_true.default: _ALL,
    aten.all.default: _ALL,
    aten.all.dim: _ALL,
    aten.all.dims: _ALL,
    aten._is_any_true.default: _ANY,
    aten.any.default: _ANY,
    aten.any.dim: _ANY,
    aten.any.dims: _ANY,
}
