"""Running products, maxima and sums of exponentials along an axis, of which Core AI has none.

A scan of n elements takes log2(n) steps, each over the whole axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lowering.core_ai.pointwise import logaddexp

_aten = torch.ops.aten


def of_scans() -> dict[Any, Callable[..., Any]]:
    """Operator to function."""
    return {
        _aten.cumprod.default: _cumprod,
        _aten.cummax.default: _running(torch.maximum, -torch.inf),
        _aten.cummin.default: _running(torch.minimum, torch.inf),
        _aten.logcumsumexp.default: _logcumsumexp,
    }


def _scanned(
    x: Tensor, dim: int, joined: Callable[[Tensor, Tensor], Tensor], start: float
) -> Tensor:
    """Every prefix of ``x`` along ``dim``, joined; ``start`` changes nothing that it joins."""
    turned = x.movedim(dim, -1) if x.dim() else x.reshape(1)
    reach = 1
    while reach < turned.shape[-1]:
        before = F.pad(turned[..., :-reach], (reach, 0), value=start)
        turned = joined(turned, before)
        reach *= 2
    return turned.movedim(-1, dim) if x.dim() else turned.reshape(())


def _cumprod(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
    return _scanned(x if dtype is None else x.to(dtype), dim, torch.mul, 1.0)


def _logcumsumexp(x: Tensor, dim: int) -> Tensor:
    return _scanned(x, dim, logaddexp, -torch.inf)


def _running(
    extreme: Callable[[Tensor, Tensor], Tensor], start: float
) -> Callable[..., tuple[Tensor, Tensor]]:
    """The extreme so far, and the last place where it stands."""

    def of(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        values = _scanned(x, dim, extreme, start)
        shape = [1] * x.dim()
        shape[dim] = -1
        places = torch.arange(x.shape[dim], device=x.device).reshape(shape)
        reached = torch.where(x == values, places, 0).float()
        return values, _scanned(reached, dim, torch.maximum, 0.0).to(torch.int64)

    return of
