"""Takes a program apart into the operators that Core AI has, and around what it gets wrong.

coreai-torch 0.4.3 has some 190 operators of ATen. Those it has none for are taken apart by torch's
own tables or by the functions below; what is left then is refused with its lines. Some it converts
to other numbers without a word (*measured*, on Apple's runtime for Linux): ``alpha`` of sums and
differences is dropped, nearest resizing by a factor that is no whole number reads half a pixel
further on, average pooling counts the padding whatever ``count_include_pad`` says, and ranges of a
fractional step round the step to float16. A batch norm without weights ends in an error, and values
of fewer axes than they are written to end the runtime. Those are written another way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import NotImplementedType
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from frontend.decompositions import as_strided
from frontend.ops import PLAIN, layer_norm
from frontend.source import source_of
from lowering.core_ai.images import of_images
from lowering.core_ai.places import of_places
from lowering.core_ai.pointwise import of_numbers
from lowering.core_ai.scans import of_scans
from lowering.errors import Unsupported, UnsupportedOpsError

_aten = torch.ops.aten
# References that end in operators of ATen.
_REFERENCES = frozenset({_aten.unfold.default})
# Decompositions hold operators that need another one; each round takes one level apart.
_MOST_ROUNDS = 4
_HALF = torch.finfo(torch.float16)
# How ``_embedding_bag`` reduces; 0 is a sum.
_MEAN, _MAX = 1, 2


def to_core_ai_operators(
    program: ExportedProgram, known: frozenset[str], *, half: bool = False
) -> ExportedProgram:
    """``program`` in operators that Core AI has.

    Args:
        program: ATen and ``ane`` operators.
        known: operators of ATen that coreai-torch has, such as ``add.Tensor``.
        half: it will compute in float16.

    Raises:
        UnsupportedOpsError: operators that it does not have and nothing takes apart.
    """
    table = decompositions(known)
    if half:
        table[_aten.linalg_vector_norm.default] = _vector_norm
    for _ in range(_MOST_ROUNDS):
        before = len(program.graph.nodes)
        program = program.run_decompositions(table)
        if not _missing(program, known) or len(program.graph.nodes) == before:
            break
    missing = _missing(program, known)
    if missing:
        raise UnsupportedOpsError(missing, "Core AI")
    return program


def decompositions(known: frozenset[str]) -> dict[Any, Callable[..., Any]]:
    """Operator to function, for all that ``known`` lacks and that can be taken apart."""
    usual: dict[Any, Callable[..., Any]] = dict(torch.export.default_decompositions().items())
    further = {
        op: function
        for op, function in torch._decomp.decomposition_table.items()
        # Most of torch's references end in operators of another namespace, ``prims``.
        if function.__module__ != "torch._refs" or op in _REFERENCES
    }
    table = {op: f for op, f in {**further, **usual}.items() if _name(op) not in known}
    return {
        **table,
        **PLAIN,
        layer_norm: _layer_norm,
        _aten.as_strided.default: as_strided,
        _aten.bitwise_and.Scalar: _with_number(torch.bitwise_and),
        _aten.bitwise_or.Scalar: _with_number(torch.bitwise_or),
        _aten.bitwise_xor.Scalar: _with_number(torch.bitwise_xor),
        _aten.index_put.default: _index_put,
        _aten.argmin.default: _argmin,
        _aten.var.correction: _var,
        _aten.var_mean.correction: _var_mean,
        _aten._cdist_forward.default: _cdist,
        _aten.add.Tensor: _scaled(torch.add),
        _aten.sub.Tensor: _scaled(torch.sub),
        _aten.remainder.Scalar: _with_number(torch.remainder),
        _aten.scatter_add.default: _scatter_add,
        _aten.sort.default: _sort,
        _aten.sort.stable: _sort_stable,
        _aten.arange.start_step: _arange,
        _aten._embedding_bag.default: _embedding_bag,
        _aten._embedding_bag_forward_only.default: _embedding_bag,
        **of_images(),
        **of_numbers(),
        **of_scans(),
        **of_places(),
    }


def _name(op: object) -> str:
    return str(op).removeprefix("aten.")


def _missing(program: ExportedProgram, known: frozenset[str]) -> list[Unsupported]:
    places: dict[str, list[str]] = {}
    for node in program.graph.nodes:
        target = node.target
        if isinstance(target, torch._ops.OpOverload) and _name(target) not in known:
            origin = source_of(node)
            place = " · ".join(part for part in (origin.module, origin.line) if part)
            places.setdefault(str(target), []).append(place or node.name)
    reason = "coreai-torch has no lowering, and nothing takes it apart"
    hint = "write it with other operators, or convert to a .mlpackage"
    return [Unsupported(op, reason, hint, tuple(found)) for op, found in places.items()]


def _layer_norm(
    x: Tensor, axes: list[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Whole, over the last axes: Core AI then computes its statistics in float32 (*measured*)."""
    order = [*(axis for axis in range(x.dim()) if axis not in axes), *axes]
    turned = x.permute(order)
    normed = torch.nn.functional.layer_norm(turned, turned.shape[-len(axes) :], weight, bias, eps)
    return normed.permute([order.index(axis) for axis in range(x.dim())])


def _vector_norm(
    x: Tensor,
    ord: float = 2,  # torch's name
    dim: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor | NotImplementedType:
    """A norm of numbers of about one; Core AI adds up powers in float16, infinite from 256 on."""
    if ord in (0, 1) or math.isinf(ord):
        return NotImplemented
    axes = list(range(x.dim())) if dim is None else list(dim)
    size = x.abs()
    largest = size.amax(axes, keepdim=True).clamp(_HALF.tiny, _HALF.max)
    share = size / largest
    if ord == 2:
        norm = largest * (share * share).sum(axes, keepdim=True).sqrt()
    else:
        norm = largest * share.pow(ord).sum(axes, keepdim=True).pow(1 / ord)
    return norm if keepdim else norm.squeeze(axes)


def _argmin(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    return torch.argmax(-x, dim, keepdim)


def _var(
    x: Tensor,
    dim: Sequence[int] | None = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> Tensor:
    axes = list(dim) if dim else list(range(x.dim()))
    centred = x - x.mean(axes, keepdim=True)
    count = math.prod(x.shape[axis] for axis in axes)
    total = (centred * centred).sum(axes, keepdim)
    return total / max(count - (1 if correction is None else correction), 0)


def _var_mean(
    x: Tensor,
    dim: Sequence[int] | None = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> tuple[Tensor, Tensor]:
    axes = list(dim) if dim else list(range(x.dim()))
    return _var(x, axes, correction=correction, keepdim=keepdim), x.mean(axes, keepdim)


def _cdist(x: Tensor, y: Tensor, p: float, compute_mode: int | None) -> Tensor:
    """Distances of all rows (..., N, D) and (..., M, D), from all their differences."""
    return torch.linalg.vector_norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, -1)


def _scaled(function: Callable[..., Tensor]) -> Callable[..., Tensor | NotImplementedType]:
    def of(x: Tensor, other: Tensor, *, alpha: float = 1) -> Tensor | NotImplementedType:
        return NotImplemented if alpha == 1 else function(x, other * alpha)

    return of


def _with_number(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def of(x: Tensor, number: float) -> Tensor:
        return function(x, torch.full((), number, dtype=x.dtype, device=x.device))

    return of


def _index_put(
    x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False
) -> Tensor | NotImplementedType:
    """Values spread to the whole shape; additions at places, which Core AI has for one axis."""
    before = next((axis for axis, index in enumerate(indices) if index is not None), 0)
    given = [index for index in indices[before:] if index is not None]
    if any(index.dtype in (torch.bool, torch.uint8) for index in given):
        return NotImplemented
    whole = _aten.index.Tensor(x, indices).shape
    if not accumulate and values.shape != whole:
        # The runtime ends the process on values with fewer axes.
        written: Tensor = _aten.index_put(x, indices, values.expand(whole))
        return written
    if not accumulate or before + len(given) < len(indices):
        return NotImplemented
    sizes, rest = x.shape[before : before + len(given)], x.shape[before + len(given) :]
    places = torch.zeros((), dtype=torch.int64, device=x.device)
    for size, index in zip(sizes, torch.broadcast_tensors(*given), strict=True):
        places = places * size + torch.where(index < 0, index + size, index)
    # Axes before the indexed ones go to the end: (indexed, the rest, before).
    turned = x.permute(*range(before, x.dim()), *range(before))
    values = values.expand(whole).permute(*range(before, len(whole)), *range(before))
    row = math.prod(rest) * math.prod(x.shape[:before])
    index = places.reshape(-1, 1).expand(-1, row)
    flat, rows = turned.reshape(-1, row), values.reshape(-1, row)
    added: Tensor = _aten.scatter.reduce(flat, 0, index, rows, reduce="add")
    behind = x.dim() - before
    return added.reshape(turned.shape).permute(*range(behind, x.dim()), *range(behind))


def _scatter_add(x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    result: Tensor = _aten.scatter.reduce(x, dim, index, src, reduce="add")
    return result


def _sort(x: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    values, places = torch.topk(x, x.shape[dim], dim, largest=descending)
    return values, places


def _sort_stable(
    x: Tensor, *, stable: bool | None, dim: int = -1, descending: bool = False
) -> tuple[Tensor, Tensor]:
    return _sort(x, dim, descending)  # equal values keep their order there (*measured*)


def _arange(
    start: float,
    end: float,
    step: float = 1,
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> Tensor | NotImplementedType:
    if all(isinstance(number, int | torch.SymInt) for number in (start, end, step)):
        return NotImplemented
    count = math.ceil((end - start) / step)
    numbers = torch.arange(0, count, 1, device=device).to(dtype or torch.get_default_dtype())
    return numbers * step + start


def _embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(N, D) from a table (V, D), indices (L,) and the start of each of N bags.

    Starts may depend on data: each bag sees every row and takes its own, N times the work.
    """
    starts = offsets[:-1] if include_last_offset else offsets
    ends = torch.cat([starts[1:], torch.full_like(starts[:1], indices.shape[0])])
    place = torch.arange(indices.shape[0], dtype=starts.dtype, device=starts.device)
    mine = (place >= starts.unsqueeze(1)) & (place < ends.unsqueeze(1))
    if padding_idx >= 0:
        mine = mine & (indices != padding_idx)
    rows = weight.index_select(0, indices)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(1)
    member = mine.to(weight.dtype)
    count = member.sum(1, keepdim=True)
    if mode == _MAX:
        lowest = torch.finfo(weight.dtype).min
        largest = torch.where(mine.unsqueeze(-1), rows.unsqueeze(0), lowest).amax(1)
        result = torch.where(count > 0, largest, 0.0)
    else:
        result = torch.matmul(member, rows)
        result = result / count.clamp(min=1) if mode == _MEAN else result
    none = indices.new_empty((0,))
    return result, none, none, none  # the others are for the backward pass
