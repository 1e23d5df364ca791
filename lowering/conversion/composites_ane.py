"""MIL for the ``ane::`` operators, which the passes write and ATen has no single node for."""

from __future__ import annotations

from collections.abc import Sequence

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil.mil import Var
from coremltools.converters.mil.mil.block import is_current_opset_version_compatible_with

from frontend import ops
from lowering.conversion.box_writes import write_box
from lowering.conversion.builder import MilBuilder
from lowering.conversion.composites import Composite, composite
from lowering.conversion.state_chains import IN_PLACE
from lowering.conversion.torch_ops import activations
from lowering.conversion.torch_ops.indexing import broadcast, from_front


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _bounds(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def _weight(size: int, factor: float = 1.0) -> torch.nn.Parameter:
    return torch.nn.Parameter(_random(size) * factor)


@composite(
    ops.layer_norm,
    samples=[
        (_random(1, 8, 1, 16), [1], _weight(8), _weight(8), 1e-5),
        (_random(1, 8, 1, 16), [1], _weight(8), None, 1e-5),
        (_random(2, 3, 4), [1, 2], None, None, 1e-6),
        (_random(2, 3, 8), [2], _weight(8, 0.0), _weight(8), 1e-12),
    ],
)
def layer_norm(
    mb: MilBuilder, x: Var, axes: Sequence[int], weight: Var | None, bias: Var | None, eps: float
) -> Var:
    """One MIL op, affine included: coremltools fuses a written-out norm for some spellings only."""
    return mb.layer_norm(x=x, axes=list(axes), gamma=weight, beta=bias, epsilon=eps)


@composite(
    ops.rms_norm,
    samples=[
        (_random(1, 8, 1, 16), [1], _weight(8), 1e-6),
        (_random(2, 5, 8), [2], None, 1e-6),
        # Squares of these overflow float16.
        (_random(1, 8, 1, 16) * 3000, [1], _weight(8), 1e-6),
    ],
)
def rms_norm(mb: MilBuilder, x: Var, axes: Sequence[int], weight: Var | None, eps: float) -> Var:
    """Safe in float16, see :func:`lowering.conversion.torch_ops.activations.rms_norm`."""
    return activations.rms_norm(mb, x, axes, weight, eps)


@composite(
    ops.slice_update,
    samples=[
        (_random(2, 4, 8, 16), _random(1, 4, 1, 16), _bounds(1, 0, 3, 0), _bounds(2, 4, 4, 16)),
        (_random(1, 4, 8, 16), _random(1, 2, 3, 8), _bounds(0, 0, 5, 0), _bounds(1, 2, 8, 8)),
        (_random(6, 5), _random(2, 5), _bounds(4, 0), _bounds(6, 5)),
    ],
)
def slice_update(mb: MilBuilder, x: Var, update: Var, begin: Var, end: Var) -> Var:
    """One MIL op; on a state, where the program allows it, the write to the state as well."""
    return _updated(mb, x, update, begin, end)


@composite(
    write_box,
    samples=[
        (_random(3, 2, 8, 4), _random(2, 8, 4), [1, 0, 0, 0], [1, 2, 8, 4], [1, 2, 3],
         [None] * 4, [0] * 4),
        (_random(3, 2, 8, 4), _random(2, 1, 4), [2, 0, 0, 0], [1, 2, 1, 4], [1, 2, 3],
         [None, None, torch.tensor([5]), None], [0, 0, 8, 0]),
        (_random(3, 2, 8, 4), _random(4), [0, 0, 1, 0], [3, 2, 2, 4], [0, 1, 2, 3],
         [None, None, torch.tensor(-3), None], [0, 0, 8, 0]),
        (_random(6, 5), torch.tensor(0.5), [4, 2], [1, 1], [], [None, None], [0, 0]),
    ],
)  # fmt: skip
def box(
    mb: MilBuilder,
    x: Var,
    update: Var,
    begin: Sequence[int],
    sizes: Sequence[int],
    axes: Sequence[int],
    moving: Sequence[Var | None],
    wraps: Sequence[int],
) -> Var:
    """As ``slice_update``, what is written widened to the box and its place computed."""
    update = broadcast(mb, update, [sizes[axis] for axis in axes])
    missing = [axis for axis in range(x.rank) if axis not in axes]
    update = mb.expand_dims(x=update, axes=missing) if missing else update
    if all(place is None for place in moving):
        first = np.array(begin, np.int32)
        return _updated(mb, x, update, first, first + np.array(sizes, np.int32))
    zero = np.zeros(1, np.int32)
    places = [
        zero if place is None else mb.reshape(x=from_front(mb, place, wrap), shape=[1])
        for place, wrap in zip(moving, wraps, strict=True)
    ]
    start = mb.concat(values=places, axis=0)
    start = mb.add(x=start, y=np.array(begin, np.int32)) if any(begin) else start
    return _updated(mb, x, update, start, mb.add(x=start, y=np.array(sizes, np.int32)))


def _updated(
    mb: MilBuilder, x: Var, update: Var, begin: Var | np.ndarray, end: Var | np.ndarray
) -> Var:
    state = _state_behind(x) if mb.node.meta.get(IN_PLACE) else None
    if state is None:
        return mb.slice_update(x=x, update=update, begin=begin, end=end)
    # The program is built in float32, and the states are float16: no copy of either is wanted.
    kept = x.op.x if x.op.op_type == "cast" else x
    narrow = mb.cast(x=update, dtype="fp16", name=f"{mb.node.name}_update")
    written = mb.slice_update(x=kept, update=narrow, begin=begin, end=end)
    stored = mb.coreml_update_state(state=state, value=written)
    return mb.cast(x=stored, dtype="fp32")


def _state_behind(x: Var) -> Var | None:
    """The state that ``x`` is the newest value of, ``None`` for any other value."""
    source = x.op.x.op if x.op is not None and x.op.op_type == "cast" else x.op
    if source is None:
        return None
    if source.op_type == "read_state":
        return source.input
    return source.state if source.op_type == "coreml_update_state" else None


def _boxes(count: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes of which many overlap, and scores of which no two are equal."""
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(1, count, 4, generator=generator)
    scores = torch.randperm(count * classes, generator=generator).reshape(1, count, classes)
    return places * 0.5 + 0.1, (scores + 1) / (count * classes)


@composite(
    ops.nms,
    samples=[
        (*_boxes(20, 3), 0.3, 8, True),
        (*_boxes(20, 3), 0.3, 8, False),
        # Fewer stay than may.
        (*_boxes(6, 1), 0.1, 12, True),
    ],
)
def nms(
    mb: MilBuilder, boxes: Var, scores: Var, iou: float, limit: int, per_class: bool
) -> tuple[Var, Var, Var]:
    """MIL's operator; what it pads with is not documented, and is zeros and -1 afterwards."""
    options = {"iou_threshold": iou, "max_boxes": limit, "per_class_suppression": per_class}
    if is_current_opset_version_compatible_with(ct.target.iOS17):
        turned = [mb.transpose(x=x, perm=[0, 2, 1]) for x in (boxes, scores)]
        found = mb.non_maximum_suppression(boxes=turned[0], scores=turned[1], **options)
        found = [*(mb.transpose(x=x, perm=[0, 2, 1]) for x in found[:2]), found[2]]
    else:
        found = mb.non_maximum_suppression(
            boxes=boxes, scores=scores, score_threshold=-1.0, **options
        )
    kept_boxes, kept_scores, rows = found[:3]
    # A row that stands there again, or is none, is padding.
    one, other = (mb.expand_dims(x=rows, axes=[axis]) for axis in (2, 1))
    same = mb.cast(x=mb.equal(x=one, y=other), dtype="fp32")
    earlier = np.tril(np.ones((1, limit, limit), np.float32), -1)
    again = mb.reduce_max(x=mb.mul(x=same, y=earlier), axes=[2])
    known = mb.cast(x=mb.greater_equal(x=rows, y=0), dtype="fp32")
    real = mb.mul(x=known, y=mb.sub(x=1.0, y=again))
    mask = mb.expand_dims(x=real, axes=[2])
    chosen = mb.select(cond=mb.cast(x=real, dtype="bool"), a=rows, b=-1)
    return mb.mul(x=kept_boxes, y=mask), mb.mul(x=kept_scores, y=mask), chosen


ANE_COMPOSITES: tuple[Composite, ...] = (layer_norm, rms_norm, slice_update, box, nms)
