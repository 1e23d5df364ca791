"""Takes a program apart into the operators that Core AI has, and around what it gets wrong.

coreai-torch 0.4.3 has some 190 operators of ATen. Those it has none for are taken apart by torch's
own tables or by the functions below; what is left then is refused with its lines. Some it converts
to other numbers without a word (*measured*, on Apple's runtime for Linux): ``alpha`` of sums and
differences is dropped, nearest resizing by a factor that is no whole number reads half a pixel
further on, average pooling counts the padding whatever ``count_include_pad`` says, and ranges of a
fractional step round the step to float16. A batch norm without weights ends in an error. Those are
written another way.
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
from frontend.ops import PLAIN
from frontend.source import source_of
from lowering.errors import Unsupported, UnsupportedOpsError

_aten = torch.ops.aten
# References that end in operators of ATen.
_REFERENCES = frozenset(
    getattr(_aten, name).default for name in ("isnan", "hypot", "erfc", "unfold")
)
# Decompositions hold operators that need another one; each round takes one level apart.
_MOST_ROUNDS = 4


def to_core_ai_operators(program: ExportedProgram, known: frozenset[str]) -> ExportedProgram:
    """``program`` in operators that Core AI has.

    Args:
        program: ATen and ``ane`` operators.
        known: operators of ATen that coreai-torch has, such as ``add.Tensor``.

    Raises:
        UnsupportedOpsError: operators that it does not have and nothing takes apart.
    """
    table = decompositions(known)
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
    resize = torch._decomp.decomposition_table[_aten.upsample_nearest2d.vec]
    return {
        **table,
        **PLAIN,
        _aten.as_strided.default: as_strided,
        _aten.bitwise_and.Scalar: _with_number(torch.bitwise_and),
        _aten.bitwise_or.Scalar: _with_number(torch.bitwise_or),
        _aten.bitwise_xor.Scalar: _with_number(torch.bitwise_xor),
        _aten.index_put.default: _index_put,
        _aten.argmin.default: _argmin,
        _aten.var.correction: _var,
        _aten.add.Tensor: _scaled(torch.add),
        _aten.sub.Tensor: _scaled(torch.sub),
        _aten.remainder.Scalar: _with_number(torch.remainder),
        _aten.scatter_add.default: _scatter_add,
        _aten.sort.default: _sort,
        _aten.sort.stable: _sort_stable,
        _aten.avg_pool2d.default: _avg_pool2d,
        _aten.arange.start_step: _arange,
        _aten.upsample_nearest2d.vec: _nearest_by(resize),
        _aten._native_batch_norm_legit_no_training.default: _batch_norm,
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
    """What is added at places, which Core AI does along one axis only."""
    before = next((axis for axis, index in enumerate(indices) if index is not None), 0)
    given = [index for index in indices[before:] if index is not None]
    if not accumulate or before + len(given) < len(indices) or given[0].dtype == torch.bool:
        return NotImplemented
    sizes, rest = x.shape[before : before + len(given)], x.shape[before + len(given) :]
    places = torch.zeros((), dtype=torch.int64, device=x.device)
    for size, index in zip(sizes, torch.broadcast_tensors(*given), strict=True):
        places = places * size + torch.where(index < 0, index + size, index)
    # Axes before the indexed ones go to the end: (indexed, the rest, before).
    turned = x.permute(*range(before, x.dim()), *range(before))
    values = values.expand(*x.shape[:before], *places.shape, *rest)
    values = values.permute(*range(before, values.dim()), *range(before))
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


def _nearest_by(resize: Callable[..., Any]) -> Callable[..., Tensor | NotImplementedType]:
    """Core AI's own resizing for whole factors, reads by index for the others."""

    def nearest(
        x: Tensor, output_size: Sequence[int] | None, scale_factors: Sequence[float] | None
    ) -> Tensor | NotImplementedType:
        if output_size is None:
            assert scale_factors is not None
            factors = list(scale_factors)
        else:
            factors = [new / old for new, old in zip(output_size, x.shape[2:], strict=True)]
        if all(float(factor).is_integer() for factor in factors):
            return NotImplemented
        found: Tensor = resize(x, output_size, scale_factors)
        return found

    return nearest


def _avg_pool2d(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor | NotImplementedType:
    """Pooling without padding of what is padded before, over the share that counts."""
    if not any(padding) and not ceil_mode:
        return NotImplemented
    kernel, pads = _pair(kernel_size), _pair(padding)
    steps = _pair(stride) if stride else kernel
    margins = []  # at the end of each axis, beside the padding
    for size, window, step, pad in zip(x.shape[2:], kernel, steps, pads, strict=True):
        left = (size + 2 * pad - window) % step
        # A window that would start in the padding at the end is no window.
        is_begun = (
            ceil_mode and left and size + pad > (size + 2 * pad - window) // step * step + step
        )
        margins.append(step - left if is_begun else 0)
    around = (pads[1], pads[1] + margins[1], pads[0], pads[0] + margins[0])
    shares = torch.nn.functional.avg_pool2d(
        torch.nn.functional.pad(x, around), kernel, steps, divisor_override=divisor_override
    )
    if divisor_override is not None:
        return shares
    ones = torch.full((1, 1, *x.shape[2:]), 1.0, dtype=x.dtype, device=x.device)
    inner, outer = ((pads[1], pads[1], pads[0], pads[0]), (0, margins[1], 0, margins[0]))
    ones = torch.nn.functional.pad(ones, inner, value=1.0 if count_include_pad else 0.0)
    counted = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(ones, outer), kernel, steps)
    return shares / counted


def _pair(numbers: Sequence[int]) -> tuple[int, int]:
    return (numbers[0], numbers[-1])


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


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor] | NotImplementedType:
    if weight is not None and bias is not None:
        return NotImplemented
    shape = [1, -1, *[1] * (x.dim() - 2)]
    scale = torch.rsqrt(variance + eps)
    normed = (x - mean.reshape(shape)) * scale.reshape(shape)
    if weight is not None:
        normed = normed * weight.reshape(shape)
    if bias is not None:
        normed = normed + bias.reshape(shape)
    none = x.new_empty((0,))
    return normed, none, none
