"""Gather and scatter families. Negative indices count from the end."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lowering.reference.binding import Semantics
from lowering.reference.errors import ExecutionError

_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def gather(
    x: Tensor,
    indices: Tensor,
    axis: int = 0,
    batch_dims: int = 0,
    validate_indices: bool = False,
) -> Tensor:
    """Slices of ``x`` at ``indices`` along ``axis``; leading ``batch_dims`` go in parallel."""
    axis %= x.ndim
    index = _index(indices, x.shape[axis])
    if batch_dims == 0:
        picked = x.index_select(axis, index.reshape(-1))
        return picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    batch = x.shape[:batch_dims]
    flat_x = x.reshape(batch.numel(), *x.shape[batch_dims:])
    flat_index = index.reshape(batch.numel(), *index.shape[batch_dims:])
    rows = [gather(one, at, axis - batch_dims) for one, at in zip(flat_x, flat_index, strict=True)]
    return torch.stack(rows).reshape(*batch, *rows[0].shape)


def gather_along_axis(
    x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool = False
) -> Tensor:
    """Elements of ``x`` whose position along ``axis`` is given by ``indices``."""
    return torch.gather(x, axis, _index(indices, x.shape[axis]))


def gather_nd(
    x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False
) -> Tensor:
    """Slices of ``x`` at the multi-dimensional positions in the last axis of ``indices``."""
    if batch_dims:
        batch = x.shape[:batch_dims]
        flat_x = x.reshape(batch.numel(), *x.shape[batch_dims:])
        flat_index = indices.reshape(batch.numel(), *indices.shape[batch_dims:])
        rows = [gather_nd(one, at) for one, at in zip(flat_x, flat_index, strict=True)]
        return torch.stack(rows).reshape(*batch, *rows[0].shape)
    depth = indices.shape[-1]
    flat = x.reshape(x.shape[:depth].numel(), *x.shape[depth:])
    position = _linear_index(indices, x.shape[:depth])
    picked = flat.index_select(0, position.reshape(-1))
    return picked.reshape(*position.shape, *x.shape[depth:])


def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    """``data`` with slices at ``indices`` (1-D) along ``axis`` combined with ``updates``."""
    axis %= data.ndim
    index = _index(indices, data.shape[axis])
    index = index.reshape(-1, *[1] * (data.ndim - axis - 1)).expand(updates.shape)
    return _combine(data, axis, index, updates, mode)


def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    """``data`` combined with ``updates`` at the positions along ``axis`` in ``indices``."""
    return _combine(data, axis, _index(indices, data.shape[axis]), updates, mode)


def scatter_nd(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    """``data`` with slices at the positions in the last axis of ``indices`` combined."""
    depth = indices.shape[-1]
    rest = math.prod(data.shape[depth:])
    flat = data.reshape(-1, rest)
    position = _linear_index(indices, data.shape[:depth]).reshape(-1, 1).expand(-1, rest)
    return _combine(flat, 0, position, updates.reshape(-1, rest), mode).reshape(data.shape)


def _index(indices: Tensor, size: int) -> Tensor:
    index = indices.to(torch.int64)
    return torch.where(index < 0, index + size, index)


def _linear_index(indices: Tensor, sizes: torch.Size) -> Tensor:
    position = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for column, size in enumerate(sizes):
        at = _index(indices[..., column], size)
        if bool(((at < 0) | (at >= size)).any()):
            raise ExecutionError(
                "An index is out of bounds",
                expected=f"-{size} <= index < {size} in column {column}",
                found=str(indices[..., column].tolist()[:8]),
            )
        position = position * size + at
    return position


def _combine(data: Tensor, axis: int, index: Tensor, updates: Tensor, mode: str) -> Tensor:
    if mode == "update":
        return data.scatter(axis, index, updates)
    if mode == "sub":
        return data.scatter_reduce(axis, index, -updates, "sum")
    if mode == "div":
        divisor = torch.ones_like(data).scatter_reduce(axis, index, updates, "prod")
        return data / divisor
    if mode not in _REDUCE:
        raise ExecutionError("Unknown mode of scatter", found=mode)
    return data.scatter_reduce(axis, index, updates, _REDUCE[mode])


TABLE: dict[str, Semantics] = {
    "gather": gather,
    "gather_along_axis": gather_along_axis,
    "gather_nd": gather_nd,
    "scatter": scatter,
    "scatter_along_axis": scatter_along_axis,
    "scatter_nd": scatter_nd,
}
