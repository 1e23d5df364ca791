"""Masks of an attention as one additive tensor that is finite in fp16."""

from __future__ import annotations

import torch
from torch import fx

from frontend.sizes import Size
from passes.patterns.nodes import aten, dtype, input_of, is_call, shape
from passes.rewriter import Rewriter

MASKED_SCORE = -1e4
"""Added to a score that must get no weight. Finite in fp16 even when two masks add up, and
``exp`` of it is zero in float32; the hand-written ports use the same (documented: Apple
ml-ane-transformers). A row with every key masked gets equal weights instead of NaN."""


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
        if rw.is_constant(mask) and _is_far_from_zero(rw.value(mask)):
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
    far = (highest.abs() >= _FAR) & (highest > MASKED_SCORE)
    return mask.is_floating_point() and bool(far.any() and (highest > MASKED_SCORE).all())


def masks_nothing(rw: Rewriter, mask: fx.Node | None) -> bool:
    """True for a constant mask that lets everything through."""
    if mask is None or not rw.is_constant(mask):
        return False
    value = rw.value(mask)
    return bool(value.all()) if value.dtype is torch.bool else bool((value == 0).all())
