"""Operators that pick by place or order, in those that Core AI has."""

from __future__ import annotations

from collections.abc import Callable
from types import NotImplementedType
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten


def of_places() -> dict[Any, Callable[..., Any]]:
    """Operator to function."""
    return {
        _aten.median.dim: _median,
        _aten.kthvalue.default: _kthvalue,
        _aten.one_hot.default: _one_hot,
        _aten.diagonal.default: _diagonal,
        _aten.bucketize.Tensor: _bucketize,
    }


def _kthvalue(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The ``k``-th smallest along ``dim``, and its place."""
    values, places = torch.topk(x, k, dim, largest=False)
    found = values.narrow(dim, k - 1, 1), places.narrow(dim, k - 1, 1)
    return found if keepdim else (found[0].squeeze(dim), found[1].squeeze(dim))


def _median(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The lower one of both in the middle, and its place."""
    return _kthvalue(x, (x.shape[dim] + 1) // 2, dim, keepdim)


def _one_hot(x: Tensor, num_classes: int = -1) -> Tensor | NotImplementedType:
    """Without the question whether each number is a class: another one gives zeros."""
    if num_classes < 0:
        return NotImplemented
    classes = torch.arange(num_classes, dtype=x.dtype, device=x.device)
    return torch.eq(x.unsqueeze(-1), classes).to(torch.int64)


def _bucketize(
    x: Tensor, boundaries: Tensor, *, out_int32: bool = False, right: bool = False
) -> Tensor:
    """How many of the boundaries lie before each number, with ``right`` those at it too."""
    before = torch.le if right else torch.lt
    count = before(boundaries, x.unsqueeze(-1)).to(torch.int32).sum(-1)
    return count.to(torch.int32 if out_int32 else torch.int64)


def _diagonal(x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    turned = x.movedim((dim1, dim2), (-2, -1))
    rows, columns = turned.shape[-2:]
    top, left = max(-offset, 0), max(offset, 0)
    count = max(min(rows - top, columns - left), 0)
    step = torch.arange(count, device=x.device)
    return turned.flatten(-2).index_select(-1, (step + top) * columns + step + left)
