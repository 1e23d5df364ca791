"""What is known of a value's numbers whatever the inputs are: their sign, and bounds."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import fx
from torch.fx.node import Argument

from passes.patterns.nodes import argument, aten, input_of, is_call, is_tensor
from passes.patterns.operands import difference, powered, scalar
from passes.patterns.operators import MATMULS, MOVES, SOFTMAXES
from passes.rewriter import Rewriter

# Never below zero, whatever they are given.
_NEVER_NEGATIVE = frozenset(
    {
        *SOFTMAXES,
        aten.abs.default,
        aten.exp.default,
        aten.exp2.default,
        aten.linalg_vector_norm.default,
        aten.relu.default,
        aten.rsqrt.default,
        aten.sigmoid.default,
        aten.softplus.default,
        aten.sqrt.default,
        aten.var.correction,
        aten.std.correction,
    }
)
# Never below zero where none of their operands is.
_KEEP_SIGN = frozenset(
    {
        *MATMULS,
        *MOVES,
        aten.add.Tensor,
        aten.amax.default,
        aten.amin.default,
        aten.cat.default,
        aten.div.Tensor,
        aten.expand.default,
        aten.gather.default,
        aten.index.Tensor,
        aten.linear.default,
        aten.mean.dim,
        aten.minimum.default,
        aten.mul.Tensor,
        aten.select.int,
        aten.slice.Tensor,
        aten.sum.dim_IntList,
    }
)
_DEPTH = 8  # steps that are followed backwards
_FLOAT32 = 2.0**-23  # a number and itself as a float32 tensor are as near as this


class Bounded(NamedTuple):
    """``clamp(x, low, high)``, in any spelling; an infinity where a side is open."""

    x: fx.Node
    low: float
    high: float


def is_nonnegative(rw: Rewriter, value: Argument, depth: int = _DEPTH) -> bool:
    """True if no element of ``value`` can be below zero; NaN aside."""
    if isinstance(value, int | float):
        return value >= 0
    if not is_tensor(value) or depth == 0:
        return False
    if rw.is_constant(value):
        tensor = rw.value(value)
        return not tensor.is_complex() and bool((tensor >= 0).all())
    if is_call(value, *_NEVER_NEGATIVE):
        return True
    power = powered(rw, value)
    if power is not None and power[1] % 2 == 0:
        return True
    bounds = clamped(rw, value)
    if bounds is not None:
        return bounds.low >= 0 or (bounds.high >= 0 and is_nonnegative(rw, bounds.x, depth - 1))
    parts = difference(value)
    if parts is not None:  # a number less what is not above it
        bounds, number = clamped(rw, parts[1]), scalar(rw, parts[0])
        return bounds is not None and number is not None and bounds.high <= number
    if is_call(value, *_KEEP_SIGN):
        operands = [n for n in _operands(value) if not _is_index(value, n)]
        return all(is_nonnegative(rw, operand, depth - 1) for operand in operands)
    return False


def _operands(node: fx.Node) -> list[Argument]:
    """What a call computes with: its nodes, and the number of a sum, product or quotient."""
    numbers = [a for a in node.args if isinstance(a, float | int) and len(node.args) == 2]
    with_numbers = is_call(node, aten.add.Tensor, aten.mul.Tensor, aten.div.Tensor)
    return [*node.all_input_nodes, *(numbers if with_numbers else [])]


def _is_index(node: fx.Node, operand: Argument) -> bool:
    return is_call(node, aten.gather.default, aten.index.Tensor) and operand is not node.args[0]


def clamped(rw: Rewriter, node: Argument) -> Bounded | None:
    """Reads ``clamp``, ``maximum`` and ``minimum`` with a number, and ``where(x < c, c, x)``."""
    if is_call(node, aten.clamp.default):
        low, high = argument(node, "min"), argument(node, "max")
        return Bounded(
            input_of(node),
            -math.inf if low is None else float(low),
            math.inf if high is None else float(high),
        )
    if is_call(node, aten.maximum.default, aten.minimum.default):
        for x, c in (node.args, node.args[::-1]):
            number = scalar(rw, c)
            if number is not None and is_tensor(x):
                lower = is_call(node, aten.maximum.default)
                return Bounded(x, number, math.inf) if lower else Bounded(x, -math.inf, number)
    if is_call(node, aten.where.self):
        return _chosen(rw, node)
    return None


def _chosen(rw: Rewriter, node: fx.Node) -> Bounded | None:
    """``where(x < c, c, x)`` and ``where(x > c, c, x)``; x may be bounded on its other side.

    ``torch.logit`` with an eps is captured so, the inner bound compared with x itself.
    """
    condition, chosen, other = node.args
    number = scalar(rw, chosen)
    if number is None or not is_tensor(other) or not is_call(condition, *_LESS, *_GREATER):
        return None
    bound = scalar(rw, condition.args[1])
    if bound is None or not math.isclose(bound, number, rel_tol=_FLOAT32):
        return None
    inner = clamped(rw, other)
    compared = condition.args[0]
    if compared is not other and (inner is None or compared is not inner.x):
        return None
    x = other if compared is other or inner is None else inner.x
    low, high = (inner.low, inner.high) if x is not other and inner else (-math.inf, math.inf)
    if is_call(condition, *_LESS):
        return Bounded(x, number, high) if number <= high else None
    return Bounded(x, low, number) if low <= number else None


_LESS = (aten.lt.Scalar, aten.le.Scalar)
_GREATER = (aten.gt.Scalar, aten.ge.Scalar)
