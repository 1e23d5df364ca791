"""Sums of squares and variances, and their roots as one norm."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import fx
from torch.fx.node import Argument

from passes.patterns.nodes import argument, aten, input_of, is_call, shape
from passes.patterns.operands import powered, reduced_axes, times_scalar
from passes.rewriter import Rewriter


@dataclass(frozen=True)
class Power:
    """``factor`` times the sum of the squares of ``x`` over ``axes``, or its variance.

    Attributes:
        x: what is squared, or what varies.
        axes: non-negative.
        keepdim: they stay, with one element each.
        factor: above zero.
        correction: of a variance; ``None`` for a sum of squares.
    """

    x: fx.Node
    axes: tuple[int, ...]
    keepdim: bool
    factor: float
    correction: float | None = None


def power_of(rw: Rewriter, y: Argument) -> Power | None:
    """``y`` as a sum or mean of squares, or a variance, times a number; ``None`` for others."""
    if is_call(y, aten.var.correction):
        x, correction = input_of(y), argument(y, "correction")
        axes = reduced_axes(y, len(shape(x)))
        keepdim = bool(argument(y, "keepdim"))
        return Power(x, axes, keepdim, 1.0, 1.0 if correction is None else float(correction))
    if is_call(y, aten.sum.dim_IntList, aten.mean.dim, aten.mean.default):
        square = powered(rw, input_of(y))
        if square is None or square[1] != 2.0 or argument(y, "dtype") is not None:
            return None
        x = square[0]
        whole = is_call(y, aten.mean.default)
        axes = tuple(range(len(shape(x)))) if whole else reduced_axes(y, len(shape(x)))
        count = math.prod(shape(x)[axis] for axis in axes)
        if is_call(y, aten.sum.dim_IntList):
            count = 1
        if not axes or not isinstance(count, int) or not count:
            return None
        keepdim = not whole and bool(argument(y, "keepdim"))
        return Power(x, axes, keepdim, 1.0 / count)
    scaled = times_scalar(rw, y)
    inner = power_of(rw, scaled[0]) if scaled is not None and scaled[1] > 0 else None
    if scaled is None or inner is None:
        return None
    factor = inner.factor * scaled[1]
    return Power(inner.x, inner.axes, inner.keepdim, factor, inner.correction)


def norm_of(rw: Rewriter, power: Power) -> fx.Node:
    """The root of ``power``."""
    axes, keep = list(power.axes), power.keepdim
    if power.correction is None:
        found = rw.emit(aten.linalg_vector_norm.default, power.x, 2, axes, keep)
    else:
        found = rw.emit(
            aten.std.correction, power.x, axes, correction=power.correction, keepdim=keep
        )
    root = math.sqrt(power.factor)
    return found if root == 1.0 else rw.emit(aten.mul.Tensor, found, root)
