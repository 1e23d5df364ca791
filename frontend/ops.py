"""Operators of our own, namespace ``ane``: what ATen cannot say in one node and MIL can.

Plain ATen code is the eager kernel of each, so a user's own export or trace of an optimized model
needs nothing from us. The norms, which passes write, are CompositeImplicit; ``slice_update``, which
a decoder's cache writes before capture, and ``nms`` have to stay whole through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

# The library object owns the registrations; they last as long as it does.
_LIBRARY = torch.library.Library("ane", "DEF")
_LIBRARY.define(
    "layer_norm(Tensor x, int[] axes, Tensor? weight, Tensor? bias, float eps) -> Tensor"
)
_LIBRARY.define("rms_norm(Tensor x, int[] axes, Tensor? weight, float eps) -> Tensor")
_LIBRARY.define(
    "nms(Tensor boxes, Tensor scores, float iou, int limit, bool per_class)"
    " -> (Tensor, Tensor, Tensor)"
)
_LIBRARY.define("slice_update(Tensor x, Tensor update, Tensor begin, Tensor end) -> Tensor")


def _over_axes(parameter: torch.Tensor, x: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    """``parameter``, shaped like the ``axes`` of ``x``, made to broadcast against ``x``."""
    shape = [1] * x.dim()
    for axis in axes:
        shape[axis] = x.shape[axis]
    return parameter.reshape(shape)


def _layer_norm(
    x: torch.Tensor,
    axes: list[int],
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    centred = x - x.mean(axes, keepdim=True)
    normed = centred * torch.rsqrt((centred * centred).mean(axes, keepdim=True) + eps)
    if weight is not None:
        normed = normed * _over_axes(weight, x, axes)
    if bias is not None:
        normed = normed + _over_axes(bias, x, axes)
    return normed


def _rms_norm(
    x: torch.Tensor, axes: list[int], weight: torch.Tensor | None, eps: float
) -> torch.Tensor:
    normed = x * torch.rsqrt((x * x).mean(axes, keepdim=True) + eps)
    return normed if weight is None else normed * _over_axes(weight, x, axes)


def _slice_update(
    x: torch.Tensor, update: torch.Tensor, begin: torch.Tensor, end: torch.Tensor
) -> torch.Tensor:
    places: list[torch.Tensor | None] = []
    for axis, size in enumerate(update.shape):
        along = [1] * x.dim()
        along[axis] = size
        places.append((torch.arange(size, device=x.device) + begin[axis]).reshape(along))
    return x.index_put(places, update)


def _nms(
    boxes: torch.Tensor, scores: torch.Tensor, iou: float, limit: int, per_class: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch, _, classes = scores.shape
    kept_boxes = boxes.new_zeros(batch, limit, 4)
    kept_scores = scores.new_zeros(batch, limit, classes)
    kept = torch.full((batch, limit), -1, dtype=torch.int32, device=boxes.device)
    for example in range(batch):
        rows = _survivors(boxes[example], scores[example], iou, limit, per_class)
        kept_boxes[example, : len(rows)] = boxes[example, rows]
        kept_scores[example, : len(rows)] = scores[example, rows]
        kept[example, : len(rows)] = rows.int()
    return kept_boxes, kept_scores, kept


def _survivors(
    boxes: torch.Tensor, scores: torch.Tensor, iou: float, limit: int, per_class: bool
) -> torch.Tensor:
    """Rows of the boxes that stay, best first."""
    best, label = scores.float().max(-1)
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    area = boxes[:, 2:].prod(-1)
    left = torch.argsort(best, descending=True, stable=True)
    rows: list[torch.Tensor] = []
    while len(left) and len(rows) < limit:
        row, left = left[0], left[1:]
        rows.append(row)
        sides = torch.minimum(high[left], high[row]) - torch.maximum(low[left], low[row])
        shared = sides.clamp(min=0).prod(-1)
        over = shared > iou * (area[left] + area[row] - shared)
        if per_class:
            over &= label[left] == label[row]
        left = left[~over]
    return torch.stack(rows) if rows else left


def _nms_like(
    boxes: torch.Tensor, scores: torch.Tensor, iou: float, limit: int, per_class: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch, _, classes = scores.shape
    return (
        boxes.new_empty(batch, limit, 4),
        scores.new_empty(batch, limit, classes),
        boxes.new_empty(batch, limit, dtype=torch.int32),
    )


_LIBRARY.impl("layer_norm", _layer_norm, "CompositeImplicitAutograd")
_LIBRARY.impl("rms_norm", _rms_norm, "CompositeImplicitAutograd")
_LIBRARY.impl("slice_update", _slice_update, "CompositeExplicitAutograd")
_LIBRARY.impl("nms", _nms, "CompositeExplicitAutograd")
torch.library.register_fake("ane::nms", _nms_like, lib=_LIBRARY)
torch.library.register_fake(
    "ane::slice_update", lambda x, update, begin, end: torch.empty_like(x), lib=_LIBRARY
)

layer_norm = torch.ops.ane.layer_norm.default
"""Layer norm of ``x`` over any ``axes`` (non-negative, ascending); ``weight`` and ``bias`` have
the shape of those axes. Becomes one MIL ``layer_norm``."""

rms_norm = torch.ops.ane.rms_norm.default
"""Root-mean-square norm of ``x`` over ``axes``; ``weight`` has the shape of those axes."""

slice_update = torch.ops.ane.slice_update.default
"""``x`` with ``update`` written at ``x[begin[0]:end[0], begin[1]:end[1], ...]``; ``begin`` and
``end`` hold one number for each axis, none negative, and ``end - begin`` is the shape of
``update``. Becomes one MIL ``slice_update`` (iOS 18), which may write into a state in place."""

nms = torch.ops.ane.nms.default
"""Non-maximum suppression: ``boxes`` (batch, boxes, 4), x and y of the centre, width, height, and
``scores`` (batch, boxes, classes). Best first by the score of their best class, boxes go that share
more than ``iou`` of their union with a better one, with ``per_class`` of the same class only.
Returns boxes (batch, limit, 4), scores (batch, limit, classes) and rows (batch, limit, int32) of at
most ``limit`` that stay; the rest are zeros, and -1. Becomes MIL's ``non_maximum_suppression``."""

PLAIN: Mapping[torch._ops.OpOverload, Callable[..., torch.Tensor]] = {
    layer_norm: _layer_norm,
    rms_norm: _rms_norm,
    slice_update: _slice_update,
}
"""Each operator as a Python function of ATen operators, for programs that leave our hands: a
trace or an export of them holds nothing that stock coremltools does not know."""
