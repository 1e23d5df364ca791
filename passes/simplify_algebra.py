"""Operators that a constant operand makes trivial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx
from torch.fx.node import Argument

from frontend.schema import arguments
from frontend.sizes import same_sizes
from passes.base import Pass
from passes.patterns.nodes import argument, aten, dtype, input_of, is_tensor, shape
from passes.rewriter import Rewriter

# operator -> the constant operand that leaves the other one as it is, on either side.
_NEUTRAL: dict[Any, float | bool] = {
    aten.add.Tensor: 0,
    aten.mul.Tensor: 1,
    aten.bitwise_and.Tensor: True,
    aten.logical_and.default: True,
    aten.bitwise_or.Tensor: False,
    aten.logical_or.default: False,
}
# The same for the second operand only.
_NEUTRAL_SECOND: dict[Any, float] = {
    aten.sub.Tensor: 0,
    aten.div.Tensor: 1,
    aten.pow.Tensor_Scalar: 1,
}
_BOOLEAN = (aten.bitwise_and.Tensor, aten.bitwise_or.Tensor)


@dataclass(frozen=True)
class SimplifyAlgebra(Pass):
    """Drops additions of 0, products with 1, conjunctions with an all-true mask, and the like.

    Before: ``bitwise_and(all_true (1, 1, S, 1), mask (B, 1, 1, S))``; after:
    ``expand(mask, (B, 1, S, S))``. Also ``where`` on a constant condition, and padding by nothing,
    which models do that pad to whole windows. Exact, signed zeros
    aside (``-0.0 + 0`` is ``0.0``).
    """

    name: ClassVar[str] = "simplify_algebra"
    by_site: ClassVar[bool] = True

    def apply(self, rw: Rewriter) -> None:
        """Rewrites operators whose result is one of their operands, broadcast."""
        for node in rw.find(aten.pad.default, aten.constant_pad_nd.default):
            if not any(argument(node, "pad")) and not rw.is_constant(node):
                rw.replace(node, input_of(node))
        for node in rw.find(*_NEUTRAL, *_NEUTRAL_SECOND, aten.where.self):
            if rw.is_constant(node) or node.kwargs.get("alpha", 1) != 1:
                continue
            kept = _kept(rw, node)
            if not is_tensor(kept) or dtype(kept) is not dtype(node):
                continue
            with rw.at(node):
                same = same_sizes(shape(kept), shape(node))
                if not same and not all(isinstance(n, int) for n in shape(node)):
                    continue
                wide = kept if same else rw.emit(aten.expand.default, kept, list(shape(node)))
                rw.replace(node, wide)


def _kept(rw: Rewriter, node: fx.Node) -> Argument:
    """The operand that ``node`` returns, ``None`` if it computes something."""
    if node.target is aten.where.self:
        condition, yes, no = arguments(node).values()
        if not rw.is_constant(condition):
            return None
        value = rw.value(condition)
        return yes if bool(value.all()) else no if not bool(value.any()) else None
    one, other = node.args[:2]
    if node.target in _NEUTRAL_SECOND:
        return one if _is_all(rw, other, _NEUTRAL_SECOND[node.target]) else None
    if node.target in _BOOLEAN and dtype(node) is not torch.bool:
        return None
    neutral = _NEUTRAL[node.target]
    if _is_all(rw, other, neutral):
        return one
    return other if _is_all(rw, one, neutral) else None


def _is_all(rw: Rewriter, operand: Argument, number: float | bool) -> bool:
    if not isinstance(operand, fx.Node):
        return bool(operand == number)
    return rw.is_constant(operand) and bool((rw.value(operand) == number).all())
