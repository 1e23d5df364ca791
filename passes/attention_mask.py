"""Masks of an attention as one additive tensor that is finite in fp16."""

from __future__ import annotations

import torch
from torch import fx
from torch.fx.node import Argument

from frontend.sizes import Size
from passes.patterns.nodes import aten, dtype, input_of, is_call, shape
from passes.patterns.operands import mul_sides, scalar
from passes.rewriter import Rewriter

MASKED_SCORE = -(2.0**30)
"""Added to a score that must get no weight. float32 numbers of this size are 128 apart: a row with
every key masked has the same score everywhere, as it has after ``finfo.min``, -1e9 or a fill, and
averages the values. Where packages compute in float16 the conversion puts
``frontend.fp16.MASKED`` in its place."""


_SWALLOWS = -1e6
"""float32 numbers beyond this one are so far apart that sums with scores forget the scores."""

_MOVES = (
    aten.expand.default,
    aten.unsqueeze.default,
    aten.view.default,
    aten.reshape.default,
    aten.slice.Tensor,
    aten._to_copy.default,
)

_FAR = 8.0
"""From here on neighbouring fp16 numbers are 2^-7 apart, which a softmax turns into 1 %."""


def additive_mask(
    rw: Rewriter, mask: fx.Node | None, is_causal: bool, scores: tuple[Size, ...]
) -> fx.Node | None:
    """An additive mask that broadcasts against ``scores`` (B, H, Sq, Sk), or ``None``.

    Expansions are left out: the addition broadcasts. Boolean masks (true: attend) and causal
    masks become 0 and ``MASKED_SCORE``; float masks are clamped to it from below.
    """
    if is_causal:
        rows, columns = scores[2:]
        allowed = torch.ones(rows, columns, dtype=torch.bool).tril()
        values = torch.zeros(1, 1, rows, columns).masked_fill_(~allowed, MASKED_SCORE)
        return rw.constant(f"causal_mask_{rows}x{columns}", values)
    if mask is None:
        return None
    while is_call(mask, aten.expand.default) and len(shape(mask)) == len(shape(input_of(mask))):
        mask = input_of(mask)
    if dtype(mask) is torch.bool:
        zero, blocked = (rw.emit(aten.scalar_tensor.default, v) for v in (0.0, MASKED_SCORE))
        mask = rw.emit(aten.where.self, mask, zero, blocked)
    else:
        far = _is_far_from_zero(rw.value(mask)) if rw.is_constant(mask) else _is_mild(rw, mask)
        if far:
            highest = rw.emit(aten.amax.default, mask, [-1], True)
            mask = rw.emit(aten.sub.Tensor, mask, highest)
        if not rw.is_constant(mask) or bool((rw.value(mask) < MASKED_SCORE).any()):
            mask = rw.emit(aten.clamp.default, mask, MASKED_SCORE)
    while len(shape(mask)) < 4:
        mask = rw.emit(aten.unsqueeze.default, mask, 0)
    return mask


def _is_far_from_zero(mask: torch.Tensor) -> bool:
    """True if the largest number of some row swamps scores in fp16: ALiBi counted from the end.

    A softmax does not notice when all scores of a row move together.
    """
    highest = mask.amax(-1)
    far = (highest.abs() >= _FAR) & (highest > _SWALLOWS)
    return mask.is_floating_point() and bool(far.any() and (highest > _SWALLOWS).all())


def _is_mild(rw: Rewriter, mask: fx.Node) -> bool:
    """True if ``mask`` is made of zeros and of a number that float32 scores outlive: -1e4.

    A row that has nothing else then leaves the scores of its keys as they are.
    """
    node: Argument = mask
    while is_call(node, *_MOVES):
        node = node.args[0]
    fills: list[float | None] = []
    if is_call(node, aten.where.self):
        fills = [scalar(rw, choice) for choice in node.args[1:3]]
    elif is_call(node, aten.masked_fill.Scalar):
        fills = [scalar(rw, node.args[0]), scalar(rw, node.args[2])]
    else:
        fills = [0.0, *(scalar(rw, factor) for _, factor in mul_sides(node))]
    known = [number for number in fills if number is not None]
    far = [number for number in known if _SWALLOWS < number <= -_FAR]
    return 0.0 in known and len(known) == len(far) + 1 == 2


def masks_nothing(rw: Rewriter, mask: fx.Node | None) -> bool:
    """True for a constant mask that lets everything through."""
    if mask is None or not rw.is_constant(mask):
        return False
    value = rw.value(mask)
    return bool(value.all()) if value.dtype is torch.bool else bool((value == 0).all())
