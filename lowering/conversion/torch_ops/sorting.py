"""Sorting that keeps equal elements in their order, which Core ML's own does not promise."""

from __future__ import annotations

import math

import numpy as np
import torch
from coremltools.converters.mil.mil import Var, types

from lowering.conversion.builder import Lowered, MilBuilder
from lowering.conversion.torch_ops.common import axis_of
from lowering.errors import LoweringError

aten = torch.ops.aten

# Every element is held against every other of its row: 4 million comparisons for each row.
_MOST = 2048


def _sort_stable(
    mb: MilBuilder,
    x: Var,
    *,
    stable: bool | None = None,
    dim: int = -1,
    descending: bool = False,
) -> Lowered:
    """Each element goes to the place that is the number of elements that come before it."""
    if not x.rank:
        return mb.identity(x=x), mb.const(val=np.int32(0))
    if not all(isinstance(size, (int, np.integer)) for size in x.shape):
        return NotImplemented
    axis, shape = axis_of(dim, x.rank), [int(size) for size in x.shape]
    count = shape[axis]
    if count > _MOST:
        raise LoweringError(
            "a stable sort holds each element against all others, which is for short axes only",
            op=str(mb.node.target),
            expected=f"at most {_MOST} elements",
            found=f"{count} elements",
            hint="sort with stable=False where the order of equal elements does not matter",
        )
    is_bool = types.is_bool(x.dtype)
    x = mb.cast(x=x, dtype="int32") if is_bool else x
    last = [*(a for a in range(x.rank) if a != axis), axis]
    moved = [shape[a] for a in last]
    rows = mb.transpose(x=x, perm=last) if axis != x.rank - 1 else x
    rows = mb.reshape(x=rows, shape=[math.prod(moved[:-1]), count])
    this, other = mb.expand_dims(x=rows, axes=[2]), mb.expand_dims(x=rows, axes=[1])
    comes_first = mb.greater if descending else mb.less
    stood_first = np.tril(np.ones((1, count, count), np.bool_), -1)
    tied = mb.logical_and(x=mb.equal(x=other, y=this), y=stood_first)
    before = mb.logical_or(x=comes_first(x=other, y=this), y=tied)
    place = mb.reduce_sum(x=mb.cast(x=before, dtype="int32"), axes=[2], keep_dims=False)
    order = mb.argsort(x=place, axis=1, ascending=True)
    values = mb.gather_along_axis(x=rows, indices=order, axis=1)
    back = [last.index(a) for a in range(x.rank)]
    found = [mb.reshape(x=value, shape=moved) for value in (values, order)]
    if axis != x.rank - 1:
        found = [mb.transpose(x=value, perm=back) for value in found]
    values = mb.cast(x=found[0], dtype="bool") if is_bool else found[0]
    return values, found[1]


TABLE = {aten.sort.stable: _sort_stable}
