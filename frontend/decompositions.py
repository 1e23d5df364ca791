"""Operators taken apart that torch's export leaves whole, and MIL has no form of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import NotImplementedType
from typing import Any

import torch
from torch import Tensor

from frontend.sizes import same_sizes

_aten = torch.ops.aten

# torch takes these apart elsewhere (for its own compiler), not in an export.
_TORCHS_OWN = (_aten.dist.default, _aten.ldexp.Tensor)


def grouped_mm(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``x[start:end] @ weight[e]`` for each expert e, whose rows end at ``offsets[e]``.

    Which rows are whose depends on data, so every expert sees every row and the right one's
    result is chosen: one product of fixed shape, E times the work.

    Args:
        x: (S, K), rows in the order of the experts.
        weight: (E, K, N).
        offsets: (E,) integers, ascending.

    Returns:
        (S, N); rows behind the last offset are zero.
    """
    rows = torch.arange(x.shape[0], device=x.device)
    starts = torch.nn.functional.pad(offsets[:-1], (1, 0))
    mine = (rows >= starts.unsqueeze(1)) & (rows < offsets.unsqueeze(1))
    every = torch.matmul(x.unsqueeze(0), weight)
    return torch.where(mine.unsqueeze(-1), every, 0.0).sum(0)


def _grouped_mm(
    x: Tensor,
    weight: Tensor,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor | NotImplementedType:
    if x.dim() != 2 or weight.dim() != 3 or offs is None or bias is not None:
        return NotImplemented
    return grouped_mm(x, weight, offs).to(out_dtype or x.dtype)


def as_strided(
    x: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor | NotImplementedType:
    """Elements of ``x`` by their place in memory, known where ``x`` fills its memory.

    Trailing axes that lie in memory as they are taken are taken as whole rows.
    """
    numbers = (*x.shape, *size, *stride, storage_offset or 0)
    if not all(isinstance(n, int) for n in numbers) or x.storage_offset():
        return NotImplemented
    in_memory = x.permute(sorted(range(x.dim()), key=x.stride, reverse=True))
    if not in_memory.is_contiguous():
        return NotImplemented
    offset, row, axes = storage_offset or 0, 1, len(size)
    while axes and stride[axes - 1] == row:
        wider = row * size[axes - 1]
        if any(step % wider for step in (offset, x.numel(), *stride[: axes - 1])):
            break
        row, axes = wider, axes - 1
    places = torch.full([1] * axes, offset // row, device=x.device)
    for axis in range(axes):
        along = [size[axis] if index == axis else 1 for index in range(axes)]
        steps = torch.arange(size[axis], device=x.device) * (stride[axis] // row)
        places = places + steps.reshape(along)
    return in_memory.reshape(-1, row).index_select(0, places.reshape(-1)).reshape(size)


def mvlgamma(x: Tensor, p: int) -> Tensor:
    """The multivariate log-gamma function as a sum of terms, each of the shape of ``x``."""
    total = torch.lgamma(x)
    for i in range(1, p):
        total = total + torch.lgamma(x - i / 2)
    return total + p * (p - 1) / 4 * math.log(math.pi)


def copy(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """What ``target.copy_(source)`` leaves in ``target``: cast and broadcast to be like it.

    torch 2.13 takes ``source`` itself for a buffer that is written whole (`run_decompositions`,
    *measured*: a float written to an integer buffer keeps its fraction).
    """
    source = source.to(device=target.device, dtype=target.dtype)
    same = same_sizes(source.shape, target.shape)
    return source if same else source.expand(target.shape)


def decompositions() -> dict[torch._ops.OperatorBase, Callable[..., Any]]:
    """Operator to function, for the operators that are there.

    Mixtures of experts in ``transformers`` call an operator of that library, which exists once
    it is imported.
    """
    table: dict[Any, Callable[..., Any]] = dict(torch._decomp.get_decompositions(_TORCHS_OWN))
    table[_aten.copy.default] = copy
    table[_aten._grouped_mm.default] = _grouped_mm
    table[_aten.as_strided.default] = as_strided
    table[_aten.mvlgamma.default] = mvlgamma
    if hasattr(torch.ops.transformers, "grouped_mm_fallback"):
        table[torch.ops.transformers.grouped_mm_fallback.default] = grouped_mm
    return table
