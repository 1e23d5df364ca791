"""Logarithms, and what is near them, exact at the ends.

MIL's ``log`` adds 1e-45 to its input and ``rsqrt`` 1e-12, unless told otherwise: the logarithm of 0
is then -103.3, and ``rsqrt`` of 1e-12 is a third off. coremltools 9.0 takes the logarithm of a
softmax as two operators, which gives -103.3 for every value that is so far below the largest, and
in float16 loses the digits of all that are 10 below it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from coremltools.converters.mil.mil import Var

from frontend import fp16
from lowering.conversion.builder import Lowered, MilBuilder
from lowering.conversion.torch_ops.common import axis_of, cast

aten = torch.ops.aten

# Below this size ``exp(x) - 1`` cancels; there it is written by ``tanh(x / 2)``.
_CANCELS = 0.5
# Sums of exponentials are taken of all prefixes at once up to here: 256 kB of mask in float16.
_LONGEST = 362
_MOST_AXES = 5  # of a MIL tensor


def _log(factor: float | None = None) -> Callable[[MilBuilder, Var], Var]:
    """The natural logarithm, or ``factor`` times it."""

    def lower(mb: MilBuilder, x: Var) -> Var:
        x, epsilon = _without_epsilon(cast(mb, x, mb.result.dtype))
        found = mb.log(x=x, epsilon=epsilon)
        return found if factor is None else mb.mul(x=found, y=factor)

    return lower


def _rsqrt(mb: MilBuilder, x: Var) -> Var:
    # Of a smaller number the inverse root overflows, and would turn zeros into NaN behind it.
    x, epsilon = _without_epsilon(cast(mb, x, mb.result.dtype), fp16.MAX**-2)
    return mb.rsqrt(x=x, epsilon=epsilon)


def _without_epsilon(x: Var, least: float = 0.0) -> tuple[Var, float]:
    """``(y, c)`` of ``y + c``, c subnormal in float16 and above ``least``; else ``(x, 0)``.

    An operator's own epsilon stays in float32 from iOS17 on.
    """
    if x.op is None or x.op.op_type != "add":
        return x, 0.0
    for y, c in ((x.op.x, x.op.y), (x.op.y, x.op.x)):
        if c.val is None or y.val is not None or y.shape != x.shape or not np.size(c.val):
            continue
        epsilon = float(np.reshape(c.val, -1)[0])
        if least < epsilon < fp16.NORMAL and bool((np.asarray(c.val) == epsilon).all()):
            return y, epsilon
    return x, 0.0


def _log_softmax(mb: MilBuilder, x: Var, dim: int, dtype: torch.dtype | bool | None = None) -> Var:
    """``x - max - log(sum(exp(x - max)))``; the sum stays within one operator."""
    x = cast(mb, x, mb.result.dtype)
    if not x.rank:
        return mb.sub(x=x, y=x)
    axes = [axis_of(dim, x.rank)]
    below = mb.sub(x=x, y=mb.reduce_max(x=x, axes=axes, keep_dims=True))
    return mb.sub(x=below, y=mb.reduce_log_sum_exp(x=below, axes=axes, keep_dims=True))


def _expm1(mb: MilBuilder, x: Var) -> Var:
    """``exp(x) - 1``, and near zero ``2t / (1 - t)`` with ``t = tanh(x / 2)``."""
    x = cast(mb, x, mb.result.dtype)
    far = mb.sub(x=mb.exp(x=x), y=1.0)
    half = mb.tanh(x=mb.mul(x=x, y=0.5))
    near = mb.real_div(x=mb.mul(x=half, y=2.0), y=mb.sub(x=1.0, y=half))
    return mb.select(cond=mb.less(x=mb.abs(x=x), y=_CANCELS), a=near, b=far)


def log1p(mb: MilBuilder, x: Var) -> Var:
    """``log(u) · x / (u - 1)`` with ``u = 1 + x``, and x itself where u is 1.

    What rounding takes from u, the quotient gives back, in any precision (W. Kahan's form,
    *documented*: Goldberg 1991, theorem 4). MIL's ``log`` with an epsilon of 1 rounds the sum:
    that of 1e-3 is 6e-5 off in float32.
    """
    x = cast(mb, x, mb.result.dtype)
    above = mb.add(x=x, y=1.0)
    change = mb.sub(x=above, y=1.0)
    lost = mb.equal(x=change, y=0.0)
    slope = mb.real_div(x=mb.log(x=above, epsilon=0.0), y=mb.select(cond=lost, a=1.0, b=change))
    return mb.select(cond=lost, a=x, b=mb.mul(x=slope, y=x))


def _log_cumulative_sum(mb: MilBuilder, x: Var, dim: int) -> Lowered:
    """Each prefix's logarithm of a sum of exponentials, as a row of a triangle."""
    if not x.rank:
        return cast(mb, x, mb.result.dtype)
    axis = axis_of(dim, x.rank)
    size = x.shape[axis]
    if not isinstance(size, int) or size > _LONGEST or x.rank >= _MOST_AXES:
        return NotImplemented
    x = cast(mb, x, mb.result.dtype)
    later = np.triu(np.full((size, size), -np.inf, np.float32), 1)
    later = later.reshape(size, size, *[1] * (x.rank - 1 - axis))
    rows = mb.add(x=mb.expand_dims(x=x, axes=[axis]), y=later)
    return mb.reduce_log_sum_exp(x=rows, axes=[axis + 1], keep_dims=False)


TABLE = {
    aten.log.default: _log(),
    aten.log2.default: _log(1.0 / math.log(2.0)),
    aten.log10.default: _log(1.0 / math.log(10.0)),
    aten.log1p.default: log1p,
    aten.logcumsumexp.default: _log_cumulative_sum,
    aten.rsqrt.default: _rsqrt,
    aten.expm1.default: _expm1,
    aten.log_softmax.int: _log_softmax,
    aten._log_softmax.default: _log_softmax,
}
