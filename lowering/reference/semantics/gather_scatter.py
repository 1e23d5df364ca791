"""Gather and scatter families.

Before iOS17 negative indices count from the end, and others beyond the bounds are an error. iOS17
added ``validate_indices``: with it any index beyond the bounds, negative ones included, is an
error. Without it the result is undefined but safe; here a gather then takes the nearest element
(the one counted from the end for a negative index) and a scatter leaves the update out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lowering.reference.binding import Semantics
from lowering.reference.errors import ExecutionError
from lowering.reference.semantics.picking import picked

_SHOWN = 8  # indices quoted in an error
_REDUCE = {"mul": "prod", "max": "amax", "min": "amin"}


def gather(
    x: Tensor,
    indices: Tensor,
    axis: int = 0,
    batch_dims: int = 0,
    validate_indices: bool | None = None,
) -> Tensor:
    """Slices of ``x`` at ``indices`` along ``axis``; leading ``batch_dims`` go in parallel."""
    axis %= x.ndim
    index = _gather_index(indices, x.shape[axis], validate_indices)
    if batch_dims == 0:
        found = picked(x, axis, index.reshape(-1))
        return found.reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))
    batch = x.shape[:batch_dims]
    flat_x = x.reshape(batch.numel(), *x.shape[batch_dims:])
    flat_index = index.reshape(batch.numel(), *index.shape[batch_dims:])
    rows = [gather(one, at, axis - batch_dims) for one, at in zip(flat_x, flat_index, strict=True)]
    return torch.stack(rows).reshape(*batch, *rows[0].shape)


def gather_along_axis(
    x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool | None = None
) -> Tensor:
    """Elements of ``x`` whose position along ``axis`` is given by ``indices``."""
    return torch.gather(x, axis, _gather_index(indices, x.shape[axis], validate_indices))


def gather_nd(
    x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool | None = None
) -> Tensor:
    """Slices of ``x`` at the multi-dimensional positions in the last axis of ``indices``."""
    if batch_dims:
        batch = x.shape[:batch_dims]
        flat_x = x.reshape(batch.numel(), *x.shape[batch_dims:])
        flat_index = indices.reshape(batch.numel(), *indices.shape[batch_dims:])
        rows = [
            gather_nd(one, at, 0, validate_indices)
            for one, at in zip(flat_x, flat_index, strict=True)
        ]
        return torch.stack(rows).reshape(*batch, *rows[0].shape)
    depth = indices.shape[-1]
    flat = x.reshape(x.shape[:depth].numel(), *x.shape[depth:])
    columns = [
        _gather_index(column, size, validate_indices)
        for column, size in zip(_columns(indices), x.shape[:depth], strict=True)
    ]
    position = _linear(columns, x.shape[:depth], indices.shape[:-1])
    found = flat.index_select(0, position.reshape(-1))
    return found.reshape((*position.shape, *x.shape[depth:]))


def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool | None = None,
) -> Tensor:
    """``data`` with slices at ``indices`` (1-D) along ``axis`` combined with ``updates``."""
    axis %= data.ndim
    index = _scatter_index(indices, data.shape[axis], validate_indices)
    index = index.reshape(-1, *[1] * (data.ndim - axis - 1)).expand(updates.shape)
    return _combine(data, axis, index, updates, mode)


def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool | None = None,
) -> Tensor:
    """``data`` combined with ``updates`` at the positions along ``axis`` in ``indices``."""
    index = _scatter_index(indices, data.shape[axis], validate_indices)
    return _combine(data, axis, index, updates, mode)


def scatter_nd(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    mode: str = "add",
    validate_indices: bool | None = None,
) -> Tensor:
    """``data`` with slices at the positions in the last axis of ``indices`` combined."""
    depth = indices.shape[-1]
    sizes, rest = data.shape[:depth], math.prod(data.shape[depth:])
    columns = [
        _scatter_index(column, size, validate_indices)
        for column, size in zip(_columns(indices), sizes, strict=True)
    ]
    position = _linear(columns, sizes, indices.shape[:-1])
    for column, size in zip(columns, sizes, strict=True):
        if _ends(column)[1] == size:
            position = torch.where(column == size, sizes.numel(), position)
    # Numbers are scattered along a line three times faster than rows of one (*measured*).
    row = (rest,) if rest > 1 else ()
    position = position.reshape(-1, *[1] * len(row)).expand(-1, *row)
    flat = data.reshape(-1, *row)
    return _combine(flat, 0, position, updates.reshape(-1, *row), mode).reshape(data.shape)


def _checked(indices: Tensor, size: int, validate: bool | None) -> Tensor:
    """``indices`` as int64, negative ones counted from the end, unless that is an error."""
    index = indices.to(torch.int64)
    low = 0 if validate else -size
    least, most = _ends(indices)
    if least >= 0 and most < size:
        return index
    if validate is not False and (least < low or most >= size):
        raise ExecutionError(
            "an index is out of bounds",
            expected=f"{low} <= index < {size}",
            found=str(index.reshape(-1)[:_SHOWN].tolist()),
        )
    return torch.where(index < 0, index + size, index)


def _ends(indices: Tensor) -> tuple[int, int]:
    """The smallest and the largest index; 0 and -1 where there is none."""
    if indices.numel() == 0:
        return 0, -1
    least, most = torch.aminmax(indices)
    return int(least), int(most)


def _gather_index(indices: Tensor, size: int, validate: bool | None) -> Tensor:
    index = _checked(indices, size, validate)
    return index.clamp(0, size - 1) if validate is False else index


def _scatter_index(indices: Tensor, size: int, validate: bool | None) -> Tensor:
    """Positions; ``size`` for an update to be left out."""
    if validate is not False:
        return _checked(indices, size, validate)
    index = indices.to(torch.int64)
    least, most = _ends(indices)
    within = least >= 0 and most < size
    return index if within else torch.where((index < 0) | (index >= size), size, index)


def _columns(indices: Tensor) -> tuple[Tensor, ...]:
    """Coordinates by axis, each in one piece: numbers that lie apart are read slowly."""
    return indices.movedim(-1, 0).contiguous().unbind()


def _linear(columns: list[Tensor], sizes: torch.Size, shape: torch.Size) -> Tensor:
    """Positions in the flattened leading dimensions of ``sizes``, from one index per dimension."""
    if not columns:
        return torch.zeros(shape, dtype=torch.int64)
    position = columns[0]
    for column, size in zip(columns[1:], sizes[1:], strict=True):
        position = (position * size).add_(column)
    return position


def _combine(data: Tensor, axis: int, index: Tensor, updates: Tensor, mode: str) -> Tensor:
    size = data.shape[axis]
    if _ends(index)[1] == size:
        # Updates to be left out go to one more slice, which is cut off again.
        spare = data.narrow(axis, 0, 1)
        wider = _combine(torch.cat([data, spare, spare], axis), axis, index, updates, mode)
        return wider.narrow(axis, 0, size)
    if mode == "update":
        return data.scatter(axis, index, updates)
    if mode in ("add", "sub"):
        return data.scatter_add(axis, index, updates if mode == "add" else -updates)
    if mode == "div":
        divisor = torch.ones_like(data).scatter_reduce(axis, index, updates, "prod")
        return data / divisor
    if mode not in _REDUCE:
        raise ExecutionError("unknown mode of scatter", found=mode)
    return data.scatter_reduce(axis, index, updates, _REDUCE[mode])


TABLE: dict[str, Semantics] = {
    "gather": gather,
    "gather_along_axis": gather_along_axis,
    "gather_nd": gather_nd,
    "scatter": scatter,
    "scatter_along_axis": scatter_along_axis,
    "scatter_nd": scatter_nd,
}
