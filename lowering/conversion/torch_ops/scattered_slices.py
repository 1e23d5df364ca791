"""``select_scatter`` and ``slice_scatter`` as slices that are joined again.

coremltools 9.0 makes the first a ``tile`` and a ``select`` over the whole tensor. From iOS 18 on a
write of one box is a slice update before it comes here (``box_writes``).
"""

from __future__ import annotations

import numpy as np
import torch
from coremltools.converters.mil.mil import Var

from lowering.conversion.builder import Lowered, MilBuilder
from lowering.conversion.torch_ops.common import axis_of

aten = torch.ops.aten


def _select_scatter(mb: MilBuilder, x: Var, source: Var, dim: int, index: int | Var) -> Lowered:
    axis = axis_of(dim, x.rank)
    if not isinstance(index, int) or not _is_number(x, axis) or source.dtype != x.dtype:
        return NotImplemented
    start = index + x.shape[axis] if index < 0 else index
    return _joined(mb, x, mb.expand_dims(x=source, axes=[axis]), axis, start, start + 1)


def _slice_scatter(
    mb: MilBuilder,
    x: Var,
    source: Var,
    dim: int = 0,
    start: int | Var | None = None,
    end: int | Var | None = None,
    step: int | Var = 1,
) -> Lowered:
    axis = axis_of(dim, x.rank)
    if not _is_number(x, axis) or source.dtype != x.dtype or step != 1:
        return NotImplemented
    first = 0 if start is None else start
    size = x.shape[axis]
    last = size if end is None else end
    if not isinstance(first, int) or not isinstance(last, int):
        return NotImplemented
    first, last, _ = slice(first, last).indices(int(size))
    return _joined(mb, x, source, axis, first, last) if first < last else NotImplemented


def _is_number(x: Var, axis: int) -> bool:
    return isinstance(x.shape[axis], (int, np.integer))


def _joined(mb: MilBuilder, x: Var, middle: Var, axis: int, first: int, last: int) -> Var:
    """``x`` with ``middle`` from ``first`` to ``last``."""
    parts = [(0, first), (last, int(x.shape[axis]))]
    sides = [_side(mb, x, axis, begin, end) if begin < end else None for begin, end in parts]
    values = [part for part in (sides[0], middle, sides[1]) if part is not None]
    return mb.concat(values=values, axis=axis) if len(values) > 1 else mb.identity(x=middle)


def _side(mb: MilBuilder, x: Var, axis: int, begin: int, end: int) -> Var:
    others = [place != axis for place in range(x.rank)]
    return mb.slice_by_index(
        x=x,
        begin=[0 if other else begin for other in others],
        end=[0 if other else end for other in others],
        begin_mask=others,
        end_mask=others,
    )


TABLE = {
    aten.select_scatter.default: _select_scatter,
    aten.slice_scatter.default: _slice_scatter,
}
