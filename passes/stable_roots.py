"""Roots of sums of squares, without the squares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from passes.base import Pass
from passes.patterns.nodes import aten, is_tensor
from passes.patterns.operands import (
    add_sides,
    mul_sides,
    plus_scalar,
    powered,
)
from passes.patterns.powers import norm_of, power_of
from passes.rewriter import Rewriter

_ROOTS = (aten.sqrt.default, aten.rsqrt.default, aten.pow.Tensor_Scalar)


@dataclass(frozen=True)
class StableRoots(Pass):
    """Takes the root of a sum of squares as one norm.

    Before: ``sqrt(sum(x * x))``, ``sqrt(mean(x ** 2))``, ``sqrt(var(x))``, ``sqrt(x * x)`` and
    their inverses; after: ``vector_norm(x)``, times a number, ``std(x)`` and ``abs(x)``, each of
    which is one MIL operator with one rounding. In float16 a square overflows from 256 on and is
    zero below 2.4e-4, while the root is as large as x.

    Attributes:
        thorough: also where it takes more operators, which a program of ordinary magnitudes does
            not need: ``sqrt(sum(x * x) + eps)`` as ``m sqrt(1 + (n / m)²)``, m and n being the
            larger and the smaller of the norm and ``sqrt(eps)``, and ``sqrt(a * a + b * b)`` as
            ``hypot(a, b)``, of any number of squares.

    Bound: float32 within rtol 1e-5 / atol 1e-6 where the original's squares are normal numbers.
    """

    name: ClassVar[str] = "stable_roots"
    by_site: ClassVar[bool] = True
    runs_after: ClassVar[Mapping[str, str]] = {
        "fuse_rms_norm": "norms are recognised by their squares",
        "fuse_layer_norm": "norms are recognised by their squares",
        "assign_layout": "it places sums and means, and no norms",
        "limit_rank": "it takes axes from sums and means, and no norms",
    }
    thorough: bool = False

    def apply(self, rw: Rewriter) -> None:
        """Every root, in program order."""
        for node in rw.find(*_ROOTS):
            root = powered(rw, node)
            if root is None or abs(root[1]) != 0.5 or rw.is_constant(node) or not node.users:
                continue
            with rw.at(node):
                found = self._root(rw, root[0])
                if found is not None:
                    _put(rw, node, found, inverse=root[1] < 0)

    def _root(self, rw: Rewriter, y: fx.Node) -> fx.Node | None:
        """``sqrt(y)`` without its squares, if ``y`` is a sum of some."""
        power = power_of(rw, y)
        if power is not None:
            return norm_of(rw, power)
        square = powered(rw, y)
        if square is not None and square[1] == 2.0:
            return rw.emit(aten.abs.default, square[0])
        if not self.thorough:
            return None
        shifted = plus_scalar(rw, y)
        if shifted is not None and shifted[1] > 0:
            inner = self._root(rw, shifted[0])
            return None if inner is None else _beside(rw, inner, math.sqrt(shifted[1]))
        terms = next(add_sides(y), (None, None))
        roots = [self._root(rw, term) if is_tensor(term) else None for term in terms]
        if roots[0] is None or roots[1] is None:
            return None
        return rw.emit(aten.hypot.default, roots[0], roots[1])


def _put(rw: Rewriter, node: fx.Node, root: fx.Node, *, inverse: bool) -> None:
    """Lets the users of ``node`` use the root, or divide by it."""
    if not inverse:
        rw.replace(node, root)
        return
    for user in list(node.users):
        other = next((a for a, b in mul_sides(user) if b is node and a is not node), None)
        if is_tensor(other):  # the inverse of a small root may overflow, and zero times it is NaN
            with rw.at(user):
                rw.replace(user, rw.emit(aten.div.Tensor, other, root), counted=False)
    with rw.at(node):
        rw.replace(node, rw.emit(aten.reciprocal.default, root))


def _beside(rw: Rewriter, norm: fx.Node, number: float) -> fx.Node:
    """``sqrt(norm² + number²)``, neither being negative."""
    larger = rw.emit(aten.clamp.default, norm, number)
    smaller = rw.emit(aten.clamp.default, norm, None, number)
    ratio = rw.emit(aten.div.Tensor, smaller, larger)
    squared = rw.emit(aten.add.Tensor, rw.emit(aten.mul.Tensor, ratio, ratio), 1.0)
    return rw.emit(aten.mul.Tensor, larger, rw.emit(aten.sqrt.default, squared))
