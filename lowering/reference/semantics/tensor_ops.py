"""Ops that make, order or mask tensors."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lowering.reference.binding import Ints, Semantics
from lowering.reference.errors import ExecutionError
from lowering.reference.semantics.picking import picked

# Where so many times more elements are there than are asked for, the rest is not sorted.
_FEW = 8
# Zeros at the end of a float16 number in float32, subnormal ones included.
_FREE_BITS = 23 - 10
# Of float32: eight ones of the exponent, no mantissa.
_INFINITE_BITS = 0x7F800000


def identity(x: Any) -> Any:
    """``x``."""
    return x


def fill(shape: Ints, value: Tensor) -> Tensor:
    """A tensor of ``shape`` full of ``value``."""
    return value.reshape(()).expand(shape)


def fill_like(ref_tensor: Tensor, value: Tensor) -> Tensor:
    """A tensor shaped as ``ref_tensor``, full of ``value``."""
    return value.reshape(()).expand(ref_tensor.shape)


def range_1d(end: Tensor, start: Tensor, step: Tensor) -> Tensor:
    """``start``, ``start + step``, ... before ``end``."""
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


def one_hot(
    indices: Tensor,
    one_hot_vector_size: int,
    on_value: Tensor,
    off_value: Tensor,
    axis: int = -1,
) -> Tensor:
    """``on_value`` at ``indices`` along a new ``axis``, ``off_value`` elsewhere."""
    axis %= indices.ndim + 1
    index = indices.unsqueeze(axis).to(torch.int64)
    outside = (index < 0) | (index >= one_hot_vector_size)
    shape = (*indices.shape[:axis], one_hot_vector_size, *indices.shape[axis:])
    values = on_value.reshape(()).expand(index.shape)
    if bool(outside.any()):
        # Such an index is nowhere: what it would write is what stands there.
        index = torch.where(outside, 0, index)
        values = torch.where(outside, off_value, values)
    made = off_value.reshape(()).expand(shape).contiguous()
    return made.scatter_(axis, index, values)


def non_zero(x: Tensor) -> Tensor:
    """Positions (N, rank) of the elements that are not zero."""
    return torch.nonzero(x)


def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """``x`` with zeros beyond so many diagonals; negative keeps them all."""
    row = torch.arange(x.shape[-2]).unsqueeze(1)
    column = torch.arange(x.shape[-1])
    keep = torch.ones(x.shape[-2:], dtype=torch.bool)
    if lower >= 0:
        keep &= row - column <= lower
    if upper >= 0:
        keep &= column - row <= upper
    return torch.where(keep, x, torch.zeros((), dtype=x.dtype))


def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Running sum along ``axis``, from the end if reversed, without the element if exclusive."""
    if reverse:
        x = x.flip(axis)
    total = x.cumsum(axis, dtype=x.dtype)
    if exclusive:
        total = total - x
    return total.flip(axis) if reverse else total


def pad(x: Tensor, pad: Ints, mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """The last dimensions of ``x`` with ``pad[2i]`` elements before, ``pad[2i + 1]`` after."""
    pairs = list(zip(pad[0::2], pad[1::2], strict=True))
    if mode == "constant":
        return F.pad(x, [item for pair in reversed(pairs) for item in pair], value=constant_val)
    for dim, (before, after) in enumerate(pairs, start=x.ndim - len(pairs)):
        if not before and not after:
            continue
        size = x.shape[dim]
        at = torch.arange(-before, size + after)
        if mode == "replicate":
            at = at.clamp(0, size - 1)
        elif mode == "reflect":
            at = at.abs()
            at = torch.where(at >= size, 2 * (size - 1) - at, at)
        else:
            raise ExecutionError("unknown mode of pad", found=mode)
        x = picked(x, dim, at)
    return x


def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    """Indices that sort ``x``; equal elements keep their order."""
    return torch.argsort(x, dim=axis, descending=not ascending, stable=True)


def topk(
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> Tensor | tuple[Tensor, Tensor]:
    """The ``k`` largest (or smallest) elements, sorted, and their positions; -1 takes all."""
    count = x.shape[axis] if k == -1 else k
    is_few = 0 < count * _FEW <= x.shape[axis]
    found = _best(x, count, axis, ascending) if is_few else None
    if found is None:
        found = tuple(torch.sort(x, dim=axis, descending=not ascending, stable=True))
    values, indices = (part.narrow(axis, 0, count) for part in found)
    return (values, indices) if return_indices else values


def _best(x: Tensor, count: int, axis: int, ascending: bool) -> tuple[Tensor, ...] | None:
    """The first ``count`` of a stable sort without sorting the rest; ``None`` if NaN is in the way.

    ``torch.topk`` finds them, but says nothing of the order of equal ones. Where no other is as
    good as its last one, they alone are sorted.
    """
    rows = x.movedim(axis, -1).reshape(-1, x.shape[axis])
    keys = _keys(rows, ascending)
    if keys is not None:
        indices = torch.topk(keys, count, largest=not ascending).indices
    else:
        values, indices = torch.topk(rows, count, largest=not ascending)
        if bool(values.isnan().any()):
            return None
        indices = indices.sort(-1).values
        order = torch.argsort(rows.gather(1, indices), descending=not ascending, stable=True)
        indices = indices.gather(1, order)
        edge = values[:, -1:]
        # Ones and zeros of the same type take a quarter of the time of truth values (*measured*).
        as_good = (torch.le if ascending else torch.ge)(rows, edge, out=torch.empty_like(rows))
        tied = as_good.sum(1, dtype=torch.int32) > count
        if bool(tied.any()):
            indices[tied] = _of_equals(rows[tied], edge[tied], count, ascending)
    shape = (*x.movedim(axis, -1).shape[:-1], count)
    parts = (rows.gather(1, indices), indices)
    return tuple(part.reshape(shape).movedim(-1, axis) for part in parts)


def _keys(rows: Tensor, ascending: bool) -> Tensor | None:
    """Integers in the order of a stable sort of each of ``rows``, no two of a row the same.

    The bits of a float are a sign and a magnitude; those that a float16 number, carried in float32,
    leaves free hold its place. ``None`` where there are other numbers, NaN, or more places.
    """
    if rows.dtype is not torch.float32 or rows.shape[1] > 1 << _FREE_BITS:
        return None
    bits = (rows + 0.0).view(torch.int32)  # -0 is equal to 0
    keys = (bits >> 31).bitwise_and_(torch.iinfo(torch.int32).max - (1 << _FREE_BITS) + 1)
    keys.bitwise_xor_(bits)
    least, most = map(int, torch.aminmax(keys))
    if least < -_INFINITE_BITS - (1 << _FREE_BITS) or most > _INFINITE_BITS:
        return None
    places = torch.arange(rows.shape[1], dtype=torch.int32)
    if not ascending:
        places = (1 << _FREE_BITS) - 1 - places
    if not torch.equal(keys, keys >> _FREE_BITS << _FREE_BITS):
        return None
    return keys.bitwise_or_(places)


def _of_equals(rows: Tensor, edge: Tensor, count: int, ascending: bool) -> Tensor:
    """Places of the first ``count`` of rows whose last one equals others: all these are sorted."""
    row, column = torch.nonzero(rows <= edge if ascending else rows >= edge, as_tuple=True)
    sizes = torch.bincount(row, minlength=len(rows))
    order = torch.argsort(rows[row, column], descending=not ascending, stable=True)
    order = order[torch.argsort(row[order], stable=True)]
    starts = sizes.cumsum(0) - sizes
    return column[order[starts.unsqueeze(1) + torch.arange(count)]]


def classify(probabilities: Tensor, classes: Any) -> tuple[Any, dict[Any, float]]:
    """The most probable class and the probability of each."""
    flat = probabilities.reshape(-1)
    best = classes[int(torch.argmax(flat))]
    return best, dict(zip(classes, flat.tolist(), strict=True))


def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_boxes: int,
    score_threshold: float | None = None,
    per_class_suppression: bool = False,
) -> tuple[Tensor, ...]:
    """Boxes by falling score without those that overlap a better one by more than the threshold.

    iOS15: ``boxes (B, N, 4)``, ``scores (B, N, K)`` and a ``score_threshold``; iOS17: the last two
    dimensions are swapped and there is none. Boxes are (x, y, width, height) around the centre.
    """
    with_count = score_threshold is not None
    if not with_count:
        boxes, scores = boxes.transpose(1, 2), scores.transpose(1, 2)
    batches = [
        _suppress(
            one_boxes,
            one_scores,
            iou_threshold,
            max_boxes,
            -math.inf if score_threshold is None else score_threshold,
            per_class_suppression,
        )
        for one_boxes, one_scores in zip(boxes, scores, strict=True)
    ]
    picked_boxes, picked_scores, indices, counts = (
        torch.stack(items) for items in zip(*batches, strict=True)
    )
    if with_count:
        return picked_boxes, picked_scores, indices, counts
    return picked_boxes.transpose(1, 2), picked_scores.transpose(1, 2), indices


def kept_boxes(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_boxes: int,
    score_threshold: float,
    per_class: bool,
) -> list[int]:
    """Rows of the boxes that stay, by falling score.

    Args:
        boxes: (N, 4), x and y of the centre, width, height.
        scores: (N, classes).
        iou_threshold: boxes that share more of their union than this with a better one go.
        max_boxes: how many may stay.
        score_threshold: boxes whose best class scores less go.
        per_class: boxes compete with those of their own best class only.
    """
    best, label = scores.max(dim=1)
    half = boxes[:, 2:] / 2
    low, high = boxes[:, :2] - half, boxes[:, :2] + half
    area = boxes[:, 2] * boxes[:, 3]
    kept: list[int] = []
    for index in torch.argsort(best, descending=True, stable=True).tolist():
        if len(kept) == max_boxes or best[index] < score_threshold:
            break
        rivals = [i for i in kept if not per_class or label[i] == label[index]]
        overlap = (
            (torch.minimum(high[rivals], high[index]) - torch.maximum(low[rivals], low[index]))
            .clamp(min=0)
            .prod(dim=1)
        )
        if not bool((overlap / (area[rivals] + area[index] - overlap) > iou_threshold).any()):
            kept.append(index)
    return kept


def _suppress(
    boxes: Tensor, scores: Tensor, iou_threshold: float, max_boxes: int, *limits: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    kept = kept_boxes(boxes, scores, iou_threshold, max_boxes, *limits)
    out_boxes = torch.zeros(max_boxes, 4)
    out_scores = torch.zeros(max_boxes, scores.shape[1])
    out_indices = torch.full((max_boxes,), -1, dtype=torch.int32)
    count = len(kept)
    out_boxes[:count], out_scores[:count] = boxes[kept], scores[kept]
    out_indices[:count] = torch.tensor(kept, dtype=torch.int32)
    return out_boxes, out_scores, out_indices, torch.tensor(count, dtype=torch.int32)


TABLE: dict[str, Semantics] = {
    "argsort": argsort,
    "band_part": band_part,
    "classify": classify,
    "cumsum": cumsum,
    "fill": fill,
    "fill_like": fill_like,
    "identity": identity,
    "non_maximum_suppression": non_maximum_suppression,
    "non_zero": non_zero,
    "one_hot": one_hot,
    "pad": pad,
    "range_1d": range_1d,
    "topk": topk,
}
