"""Order and counting: running sums and extremes, ranks, the k-th value, histograms.

coremltools 9.0 has none of them but ``searchsorted``, for equal ranks only, and ``cumsum``, for
no negative axis but the last.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from coremltools.converters.mil.mil import Var, types

from lowering.conversion.builder import Lowered, Lowering, MilBuilder, Operand
from lowering.conversion.torch_ops.common import axis_of, cast

aten = torch.ops.aten


def _cumsum(mb: MilBuilder, x: Var, dim: int, dtype: torch.dtype | None = None) -> Var:
    x = cast(mb, x, mb.result.dtype)
    return mb.cumsum(x=x, axis=axis_of(dim, x.rank)) if x.rank else x


def _running(better: str) -> Lowering:
    """``cummax`` and ``cummin`` in log2(n) steps; of equal elements the last counts, as in torch.

    After the step ``s`` each place holds the extreme of the ``2 s`` elements that end there.
    """

    def lower(mb: MilBuilder, x: Var, dim: int) -> Lowered:
        if not all(isinstance(size, (int, np.integer)) for size in x.shape):
            return NotImplemented
        if types.is_bool(x.dtype):
            x = mb.cast(x=x, dtype="int32")
        shape = [int(size) for size in x.shape]
        if not shape:
            return mb.identity(x=x), mb.const(val=np.int32(0))
        axis, step = axis_of(dim, x.rank), 1
        count = shape[axis]
        along = [count if index == axis else 1 for index in range(x.rank)]
        places = np.broadcast_to(np.arange(count, dtype=np.int32).reshape(along), shape).copy()
        where = mb.const(val=places)
        while step < count:
            sizes = [count - step if index == axis else size for index, size in enumerate(shape)]
            starts = [step if index == axis else 0 for index in range(x.rank)]
            first = [step if index == axis else size for index, size in enumerate(shape)]
            none = [0] * x.rank

            def later(value: Var, begin: list[int] = starts, size: list[int] = sizes) -> Var:
                return mb.slice_by_size(x=value, begin=begin, size=size)

            def earlier(value: Var, begin: list[int] = none, size: list[int] = sizes) -> Var:
                return mb.slice_by_size(x=value, begin=begin, size=size)

            stays = getattr(mb, better)(x=later(x), y=earlier(x))
            x, where = (
                mb.concat(
                    values=[
                        mb.slice_by_size(x=value, begin=none, size=first),
                        mb.select(cond=stays, a=later(value), b=earlier(value)),
                    ],
                    axis=axis,
                )
                for value in (x, where)
            )
            step *= 2
        return x, where

    return lower


def _rank(mb: MilBuilder, x: Operand, boundaries: Var, right: bool) -> Var:
    """How many of the sorted ``boundaries`` lie below each element."""
    floats = any(types.is_float(v.dtype) for v in (x, boundaries) if isinstance(v, Var))
    dtype = torch.float32 if floats or isinstance(x, float) else torch.int32
    x = cast(mb, x, dtype)
    last = mb.expand_dims(x=x, axes=[x.rank])
    below = mb.greater_equal if right else mb.greater
    passed = mb.cast(x=below(x=last, y=cast(mb, boundaries, dtype)), dtype="int32")
    return mb.reduce_sum(x=passed, axes=[-1], keep_dims=False)


def _bucketize(
    mb: MilBuilder, x: Operand, boundaries: Var, *, out_int32: bool = False, right: bool = False
) -> Lowered:
    return _rank(mb, x, boundaries, right) if boundaries.rank == 1 else NotImplemented


def _searchsorted(
    mb: MilBuilder,
    boundaries: Var,
    x: Operand,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Var | None = None,
) -> Lowered:
    if boundaries.rank != 1:
        return NotImplemented
    if sorter is not None:
        boundaries = mb.gather(x=boundaries, indices=sorter, axis=0)
    return _rank(mb, x, boundaries, right or side == "right")


def _kth(mb: MilBuilder, x: Var, k: int, dim: int, keepdim: bool) -> tuple[Var, Var]:
    """The k-th smallest element along ``dim`` and its place; any of several equal ones."""
    axis = axis_of(dim, max(x.rank, 1))
    if not x.rank:
        return mb.identity(x=x), mb.const(val=np.int32(0))
    least = mb.topk(x=x, k=k, axis=axis, ascending=True)
    begin = [k - 1 if index == axis else 0 for index in range(x.rank)]
    size = [1 if index == axis else -1 for index in range(x.rank)]
    found = [mb.slice_by_size(x=value, begin=begin, size=size) for value in least]
    if not keepdim:
        found = [mb.squeeze(x=value, axes=[axis]) for value in found]
    return found[0], found[1]


def _kthvalue(mb: MilBuilder, x: Var, k: int, dim: int = -1, keepdim: bool = False) -> Lowered:
    return _kth(mb, x, k, dim, keepdim)


def _median_dim(mb: MilBuilder, x: Var, dim: int, keepdim: bool = False) -> Lowered:
    count = x.shape[dim] if x.rank else 1
    if not isinstance(count, (int, np.integer)):
        return NotImplemented
    return _kth(mb, x, (int(count) + 1) // 2, dim, keepdim)


def _median(mb: MilBuilder, x: Var) -> Lowered:
    if not all(isinstance(size, (int, np.integer)) for size in x.shape):
        return NotImplemented
    middle = (math.prod(int(size) for size in x.shape) + 1) // 2
    return _kth(mb, mb.reshape(x=x, shape=[-1]), middle, 0, False)[0]


def _histc(mb: MilBuilder, x: Var, bins: int = 100, low: float = 0, high: float = 0) -> Var:
    """Counts in equal parts of [low, high]; of the data's own range where these are equal.

    What was an integer before the call is compared as one, which float16 cannot do to the last.
    """
    if low == high:
        counts = _counts_in_own_range(mb, x, bins)
    else:
        whole = _integers_behind(x)
        edges = _edges(bins, float(low), float(high))
        if whole is not None:
            x, edges = whole, np.ceil(edges).astype(np.int32)
        flat = mb.reshape(x=x, shape=[1, -1])
        last = mb.less_equal(
            x=flat, y=edges.dtype.type(high if whole is None else math.floor(high))
        )
        parts = mb.logical_and(x=mb.greater_equal(x=flat, y=edges[:, None]), y=last)
        reached = mb.reduce_sum(x=mb.cast(x=parts, dtype="int32"), axes=[1], keep_dims=False)
        counts = mb.sub(x=reached, y=_one_later(mb, reached, bins))
    return cast(mb, counts, mb.result.dtype)


def _one_later(mb: MilBuilder, x: Var, size: int) -> Var | np.ndarray:
    """``x`` (size,) without its first element and with a zero behind the last."""
    end = np.zeros(1, np.int32)
    if size == 1:
        return end
    rest = mb.slice_by_size(x=x, begin=[1], size=[size - 1])
    return mb.concat(values=[rest, end], axis=0)


def _integers_behind(x: Var) -> Var | None:
    """The integers that ``x`` was cast from, ``None`` where it was none."""
    op = x.op
    while op is not None and op.op_type in ("reshape", "identity", "squeeze", "expand_dims"):
        op = op.x.op
    is_cast = op is not None and op.op_type == "cast" and types.is_int(op.x.dtype)
    return op.x if is_cast else None


def _edges(bins: int, low: float, high: float) -> np.ndarray:
    """(bins,): the least float32 of each part, after torch's own arithmetic."""
    width = (high - low) / bins
    edges = [np.float32(low)]
    for index in range(1, bins):
        below, edge = (np.float32(low + width * (index + side)) for side in (-0.5, 0.5))
        # The floats between them are halved, and there are no more than 2**32.
        while below < (middle := np.float32((float(below) + float(edge)) / 2)) < edge:
            if _part_of(middle, bins, low, high) < index:
                below = middle
            else:
                edge = middle
        edges.append(edge)
    return np.array(edges, np.float32)


def _part_of(value: np.float32, bins: int, low: float, high: float) -> int:
    return int(torch.histc(torch.tensor([value]), bins, low, high).argmax())


def _counts_in_own_range(mb: MilBuilder, x: Var, bins: int) -> Var:
    flat = mb.reshape(x=cast(mb, x, torch.float32), shape=[-1])
    start = mb.reduce_min(x=flat, axes=[0], keep_dims=False)
    width = mb.sub(x=mb.reduce_max(x=flat, axes=[0], keep_dims=False), y=start)
    same = mb.cast(x=mb.equal(x=width, y=0.0), dtype="fp32")
    start, width = mb.sub(x=start, y=same), mb.add(x=width, y=mb.mul(x=same, y=2.0))
    offset = mb.sub(x=flat, y=start)
    part = mb.floor(x=mb.real_div(x=mb.mul(x=offset, y=float(bins)), y=width))
    # The upper end belongs to the last part.
    at_end = mb.cast(x=mb.equal(x=offset, y=width), dtype="fp32")
    part = mb.sub(x=part, y=at_end)
    hits = mb.equal(
        x=np.arange(bins, dtype=np.float32)[:, None], y=mb.expand_dims(x=part, axes=[0])
    )
    return mb.reduce_sum(x=mb.cast(x=hits, dtype="int32"), axes=[1], keep_dims=False)


TABLE = {
    aten.cumsum.default: _cumsum,
    aten.cummax.default: _running("greater_equal"),
    aten.cummin.default: _running("less_equal"),
    aten.bucketize.Tensor: _bucketize,
    aten.searchsorted.Tensor: _searchsorted,
    aten.searchsorted.Scalar: _searchsorted,
    aten.kthvalue.default: _kthvalue,
    aten.median.dim: _median_dim,
    aten.median.default: _median,
    aten.histc.default: _histc,
}
