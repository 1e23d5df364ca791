"""Reading and writing by index: ``index_put``, ``scatter``, ``gather``, ``diagonal``, ``unfold``.

coremltools 9.0 fails for index lists whose tensors differ in rank, for accumulation next to whole
slices, for ``scatter`` and ``gather`` with an index smaller than the data, and has no
``masked_scatter`` (apple/coremltools#2638); its ``diagonal`` takes every matrix for a square one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from coremltools.converters.mil._deployment_compatibility import AvailableTarget
from coremltools.converters.mil.mil import Var, types
from coremltools.converters.mil.mil.block import is_current_opset_version_compatible_with

from lowering.conversion.builder import Lowered, Lowering, MilBuilder, Operand
from lowering.conversion.torch_ops.common import axis_of, cast, sizes_of

aten = torch.ops.aten

_MOST_SHORT_ROWS = 1 << 16
"""Rows that an index of 16 bits without sign can tell apart."""


def _known(var: Var) -> bool:
    return all(isinstance(size, (int, np.integer)) for size in var.shape)


def _index_put(
    mb: MilBuilder, x: Var, indices: Sequence[Var | None], values: Var, accumulate: bool = False
) -> Lowered:
    pairs = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    given = [axis for axis, _ in pairs]
    chosen = [index for _, index in pairs]
    if any(types.is_bool(index.dtype) for index in chosen):
        return _mask_put(mb, x, chosen, values, accumulate)
    if not _known(x) or not all(_known(index) for index in chosen):
        return NotImplemented
    shape = np.broadcast_shapes(*(tuple(index.shape) for index in chosen))
    rest = [axis for axis in range(x.rank) if axis not in given]
    where = mb.stack(
        values=[
            broadcast(mb, from_front(mb, index, int(x.shape[axis])), shape)
            for axis, index in zip(given, chosen, strict=True)
        ],
        axis=len(shape),
    )
    # torch puts the indexed axes where they stood when they are neighbours, in front otherwise.
    together = given == list(range(given[0], given[-1] + 1))
    front = [axis for axis in rest if axis < given[0]] if together else []
    back = [axis for axis in rest if axis not in front]
    block = [int(x.shape[axis]) for axis in front]
    updates = broadcast(
        mb, _number_like(mb, values, x), (*block, *shape, *(int(x.shape[axis]) for axis in back))
    )
    order = [
        *range(len(front), len(front) + len(shape)),
        *range(len(front)),
        *range(len(front) + len(shape), updates.rank),
    ]
    updates = _permuted(mb, updates, order)
    order = [*given, *rest]
    data = _permuted(mb, _number_like(mb, x, x), order)
    mode = "add" if accumulate else "update"
    written = mb.scatter_nd(data=data, indices=where, updates=updates, mode=mode)
    return _permuted(mb, written, [order.index(axis) for axis in range(x.rank)])


def _mask_put(
    mb: MilBuilder, x: Var, masks: Sequence[Any], values: Var, accumulate: bool
) -> Lowered:
    """One number written where a mask holds is a choice; anything else has no static shape."""
    if len(masks) > 1 or accumulate or int(np.prod(values.shape)) != 1 or masks[0].rank > x.rank:
        return NotImplemented
    mask = masks[0]
    if mask.rank < x.rank:
        mask = mb.expand_dims(x=mask, axes=list(range(mask.rank, x.rank)))
    value = mb.reshape(x=_number_like(mb, values, x), shape=[1] * x.rank)
    return mb.select(cond=mask, a=value, b=_number_like(mb, x, x))


def _number_like(mb: MilBuilder, value: Var, x: Var) -> Var:
    """``value`` in the dtype of ``x``; booleans as integers, since MIL scatters numbers only."""
    kind = "int32" if types.is_bool(x.dtype) else types.builtin_to_string(x.dtype)
    same = types.builtin_to_string(value.dtype) == kind
    return value if same else mb.cast(x=value, dtype=kind)


def from_front(mb: MilBuilder, index: Var, size: int) -> Var:
    """Negative positions count from the end."""
    index = cast(mb, index, torch.int32)
    if index.val is not None:
        return mb.const(val=np.where(index.val < 0, index.val + size, index.val).astype(np.int32))
    return mb.select(cond=mb.less(x=index, y=0), a=mb.add(x=index, y=size), b=index)


def broadcast(mb: MilBuilder, value: Var, shape: Sequence[int]) -> Var:
    """``value`` repeated to ``shape``."""
    if tuple(value.shape) == tuple(shape):
        return value
    zeros = np.zeros(shape, dtype=types.nptype_from_builtin(value.dtype))
    return mb.add(x=value, y=zeros)


def _permuted(mb: MilBuilder, x: Var, order: Sequence[int]) -> Var:
    return x if list(order) == list(range(x.rank)) else mb.transpose(x=x, perm=list(order))


def _coordinates(mb: MilBuilder, x: Var, dim: int, index: Var) -> Var:
    """Coordinates in ``x`` of each element of ``index``: its own, but ``index`` along ``dim``."""
    grids = np.indices([int(size) for size in index.shape], dtype=np.int32)
    columns = [mb.const(val=grid) for grid in grids]
    columns[dim] = from_front(mb, index, int(x.shape[dim]))
    return mb.stack(values=columns, axis=index.rank)


def _gather(mb: MilBuilder, x: Var, dim: int, index: Var, *, sparse_grad: bool = False) -> Lowered:
    dim = axis_of(dim, max(x.rank, 1))
    if _same_but(x, index, dim) or not _known(index):
        return NotImplemented
    return mb.gather_nd(x=x, indices=_coordinates(mb, x, dim, index))


def _same_but(x: Var, index: Var, dim: int) -> bool:
    """Whether the sizes of both are the same along all axes but ``dim``."""
    pairs = enumerate(zip(x.shape, index.shape, strict=True))
    return all(a == b for axis, (a, b) in pairs if axis != dim)


def _scatter(mode: str) -> Lowering:
    def lower(mb: MilBuilder, x: Var, dim: int, index: Var, source: Operand) -> Lowered:
        if not _known(x) or not _known(index):
            return NotImplemented
        return _scattered(mb, x, axis_of(dim, x.rank), index, source, mode)

    return lower


def _scattered(mb: MilBuilder, x: Var, dim: int, index: Var, source: Operand, mode: str) -> Var:
    if isinstance(source, Var) and source.rank == index.rank:
        updates = _number_like(mb, source, x)
        if tuple(source.shape) != tuple(index.shape):
            updates = mb.slice_by_size(x=updates, begin=[0] * index.rank, size=list(index.shape))
    else:
        value = source if isinstance(source, Var) else cast(mb, source, mb.result.dtype)
        updates = broadcast(mb, _number_like(mb, value, x), tuple(index.shape))
    data, places = _number_like(mb, x, x), cast(mb, index, torch.int32)
    # Of constants alone coremltools computes it, and forgets the mode (9.0, put_along_axis).
    computed = any(part.val is None for part in (data, places, updates))
    if computed and _same_but(x, index, dim):
        return mb.scatter_along_axis(
            data=data, indices=places, updates=updates, axis=dim, mode=mode
        )
    return mb.scatter_nd(
        data=data,
        indices=_coordinates(mb, x, dim, index),
        updates=updates,
        mode=mode,
    )


# torch's reduction, MIL's mode, and the number that changes nothing under it.
_REDUCTIONS = {
    "sum": ("add", 0.0),
    "mean": ("add", 0.0),
    "prod": ("mul", 1.0),
    "amax": ("max", -3e38),
    "amin": ("min", 3e38),
}


def _scatter_reduce(
    mb: MilBuilder,
    x: Var,
    dim: int,
    index: Var,
    source: Var,
    reduce: str,
    *,
    include_self: bool = True,
) -> Lowered:
    if not _known(x) or not _known(index):
        return NotImplemented
    dim = axis_of(dim, x.rank)
    mode, neutral = _REDUCTIONS[reduce]
    start = x if include_self else _scattered(mb, x, dim, index, neutral, "update")
    total = _scattered(mb, start, dim, index, source, mode)
    if reduce != "mean":
        return total
    ones = mb.const(val=np.ones(x.shape, dtype=np.float32))
    start = ones if include_self else _scattered(mb, ones, dim, index, 0.0, "update")
    counts = _scattered(mb, start, dim, index, 1.0, "add")
    return mb.real_div(x=total, y=mb.maximum(x=counts, y=1.0))


def _index_reduce(
    mb: MilBuilder,
    x: Var,
    dim: int,
    index: Var,
    source: Var,
    reduce: str,
    *,
    include_self: bool = True,
) -> Lowered:
    """``scatter_reduce`` with the same index for every row."""
    if not _known(source):
        return NotImplemented
    dim = axis_of(dim, x.rank)
    shape = [-1 if axis == dim else 1 for axis in range(x.rank)]
    whole = broadcast(mb, mb.reshape(x=index, shape=shape), tuple(map(int, source.shape)))
    return _scatter_reduce(mb, x, dim, whole, source, reduce, include_self=include_self)


def _put(mb: MilBuilder, x: Var, index: Var, source: Var, accumulate: bool = False) -> Lowered:
    """Writes to the flattened tensor."""
    if not _known(x):
        return NotImplemented
    count = int(np.prod(x.shape))
    where = mb.reshape(x=from_front(mb, index, count), shape=[-1, 1])
    written = mb.scatter_nd(
        data=mb.reshape(x=_number_like(mb, x, x), shape=[-1]),
        indices=where,
        updates=mb.reshape(x=_number_like(mb, source, x), shape=[-1]),
        mode="add" if accumulate else "update",
    )
    return mb.reshape(x=written, shape=[int(size) for size in x.shape])


def _masked_scatter(mb: MilBuilder, x: Var, mask: Var, source: Var) -> Lowered:
    """The n-th chosen place takes the n-th element of ``source``."""
    shape = tuple(int(size) for size in mb.result.shape) if _known(x) and _known(mask) else ()
    if not shape:
        return NotImplemented
    chosen = broadcast(mb, mb.cast(x=mask, dtype="int32"), shape)
    number = mb.cumsum(x=mb.reshape(x=chosen, shape=[-1]), axis=0)
    place = mb.maximum(x=mb.sub(x=number, y=np.int32(1)), y=np.int32(0))
    # Places that are not chosen read something too; it must exist.
    place = mb.minimum(x=place, y=np.int32(int(np.prod(source.shape)) - 1))
    values = mb.reshape(x=_number_like(mb, source, x), shape=[-1])
    taken = mb.reshape(x=mb.gather(x=values, indices=place, axis=0), shape=shape)
    old = broadcast(mb, _number_like(mb, x, x), shape)
    return mb.select(cond=mb.cast(x=chosen, dtype="bool"), a=taken, b=old)


def _diagonal(mb: MilBuilder, x: Var, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Lowered:
    """The diagonal of two axes, as the last axis."""
    rows, columns = axis_of(dim1, x.rank), axis_of(dim2, x.rank)
    if not all(isinstance(x.shape[axis], (int, np.integer)) for axis in (rows, columns)):
        return NotImplemented
    steps = np.arange(mb.result.shape[-1], dtype=np.int32)
    where = np.stack([steps + max(0, -offset), steps + max(0, offset)], axis=1)
    rest = [axis for axis in range(x.rank) if axis not in (rows, columns)]
    number = _number_like(mb, x, x)
    front = mb.gather_nd(x=_permuted(mb, number, [rows, columns, *rest]), indices=where)
    return _permuted(mb, front, [*range(1, front.rank), 0])


def _diagonal_scatter(
    mb: MilBuilder, x: Var, source: Var, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Lowered:
    """Writes ``source`` on a diagonal; its last axis runs along it."""
    if not _known(x):
        return NotImplemented
    rows, columns = axis_of(dim1, x.rank), axis_of(dim2, x.rank)
    steps = np.arange(int(source.shape[-1]), dtype=np.int32)
    order = [axis for axis in range(x.rank) if axis not in (rows, columns)]
    front = _permuted(mb, _number_like(mb, x, x), [rows, columns, *order])
    where = np.stack([steps + max(0, -offset), steps + max(0, offset)], axis=1)
    updates = _permuted(mb, _number_like(mb, source, x), [source.rank - 1, *range(source.rank - 1)])
    written = mb.scatter_nd(data=front, indices=where, updates=updates, mode="update")
    back = [rows, columns, *order]
    return _permuted(mb, written, [back.index(axis) for axis in range(x.rank)])


def _unfold(mb: MilBuilder, x: Var, dim: int, size: int, step: int) -> Lowered:
    """Windows of ``size`` every ``step`` along ``dim``; the window is the last axis."""
    dim = axis_of(dim, x.rank)
    inside = np.arange(size, dtype=np.int32)
    if isinstance(x.shape[dim], (int, np.integer)):
        starts = np.arange(0, int(x.shape[dim]) - size + 1, step, dtype=np.int32)
        places = starts[:, None] + inside
    else:
        end = mb.sub(x=sizes_of(mb, x)[dim], y=np.int32(size - 1))
        starts = mb.range_1d(start=0, end=end, step=step)
        places = mb.add(x=mb.expand_dims(x=starts, axes=[1]), y=inside)
    windows = mb.gather(x=x, indices=places, axis=dim)
    order = [axis for axis in range(windows.rank) if axis != dim + 1]
    return _permuted(mb, windows, [*order, dim + 1])


def _repeat_positions(mb: MilBuilder, repeats: Var, *, output_size: int | None = None) -> Lowered:
    """Positions, each as often as ``repeats`` says."""
    if repeats.val is None:
        # As many positions as all repeats together; each lies behind the repeats that end before.
        ends = mb.cumsum(x=repeats, axis=0)
        total = mb.reduce_sum(x=repeats, axes=[0], keep_dims=False)
        places = mb.expand_dims(x=mb.range_1d(start=0, end=total, step=1), axes=[1])
        passed = mb.greater_equal(x=places, y=mb.expand_dims(x=ends, axes=[0]))
        return mb.reduce_sum(x=mb.cast(x=passed, dtype="int32"), axes=[1], keep_dims=False)
    positions = np.repeat(np.arange(len(repeats.val)), repeats.val)
    return mb.const(val=positions.astype(np.int32))


def _embedding(
    mb: MilBuilder,
    weight: Var,
    indices: Var,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Lowered:
    """Rows of a table. Unlike an index, the operator knows no rows counted from the end."""
    rows = cast(mb, indices, torch.int32)
    if int(weight.shape[0]) <= _MOST_SHORT_ROWS and is_current_opset_version_compatible_with(
        AvailableTarget.iOS17
    ):
        # The ANE gathers by no wider indices, and coremltools guards signed ones against numbers
        # below zero, of which there are none here.
        rows = mb.cast(x=rows, dtype="uint16")
    return mb.gather(x=weight, indices=rows, axis=0)


TABLE = {
    aten.embedding.default: _embedding,
    aten.index_put.default: _index_put,
    aten._unsafe_index_put.default: _index_put,
    aten.gather.default: _gather,
    aten.scatter.src: _scatter("update"),
    aten.scatter.value: _scatter("update"),
    aten.scatter_add.default: _scatter("add"),
    aten.scatter_reduce.two: _scatter_reduce,
    aten.index_reduce.default: _index_reduce,
    aten.put.default: _put,
    aten.masked_scatter.default: _masked_scatter,
    aten.diagonal.default: _diagonal,
    aten.diagonal_scatter.default: _diagonal_scatter,
    aten.unfold.default: _unfold,
    aten.repeat_interleave.Tensor: _repeat_positions,
}
