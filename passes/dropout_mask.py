"""Random masks of zeros and ones, and the factors that are made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx
from torch.fx.node import Argument

from passes.patterns.nodes import aten, is_call, is_tensor
from passes.patterns.operands import mul_sides, plus_scalar, scalar, times_scalar
from passes.patterns.operators import MOVES
from passes.rewriter import Rewriter

_UNIFORM = (aten.rand.default, aten.rand_like.default)
_BELOW = (aten.lt.Tensor, aten.lt.Scalar, aten.le.Tensor, aten.le.Scalar)
_ABOVE = (aten.gt.Tensor, aten.gt.Scalar, aten.ge.Tensor, aten.ge.Scalar)
# What leaves a mask a mask.
_CARRIED = (aten._to_copy.default, aten.expand.default, *MOVES)


@dataclass(frozen=True)
class Mask:
    """A tensor of random zeros and ones.

    Attributes:
        node: it.
        keep: the probability of a one.
    """

    node: fx.Node
    keep: float

    def products(self) -> list[fx.Node]:
        """Multiplications by something that is made of the mask and numbers alone."""
        found: dict[fx.Node, None] = {}
        pending, made = [self.node], {self.node}
        while pending:
            for user in pending.pop().users:
                if user in made or user.op != "call_function":
                    continue
                if all(source in made for source in user.all_input_nodes):
                    made.add(user)
                    pending.append(user)
                elif is_call(user, aten.mul.Tensor):
                    found[user] = None
        return list(found)

    def affine(self, rw: Rewriter, value: Argument) -> tuple[float, float] | None:
        """``(a, b)`` where ``value`` is ``a * mask + b``, moved about; ``None`` otherwise."""
        if value is self.node:
            return 1.0, 0.0
        if is_call(value, *_CARRIED):
            return self.affine(rw, value.args[0])
        for step in (times_scalar(rw, value), plus_scalar(rw, value)):
            if step is None:
                continue
            inner = self.affine(rw, step[0])
            if inner is None:
                continue
            if is_call(value, aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar):
                return inner[0], inner[1] + step[1]
            return inner[0] * step[1], inner[1] * step[1]
        return None


def find_masks(rw: Rewriter) -> Iterator[Mask]:
    """Every Bernoulli draw, and its spellings ``rand < keep`` and ``floor(rand + keep)``."""
    for node in rw.nodes():
        keep = _keep(rw, node)
        if keep is not None and 0 < keep <= 1:
            yield Mask(node, keep)


def masked_factor(rw: Rewriter, product: fx.Node, mask: Mask) -> tuple[Argument, float]:
    """``(x, s)`` of ``x * (s * mask)``, in either order."""
    for x, factor in mul_sides(product):
        line = mask.affine(rw, factor) if is_tensor(x) else None
        if line is not None and line[1] == 0 and mask.affine(rw, x) is None:
            return x, line[0]
    return None, 0.0


def _keep(rw: Rewriter, node: fx.Node) -> float | None:
    if is_call(node, aten.bernoulli.p):
        return scalar(rw, node.args[1])
    if is_call(node, aten.bernoulli.default):
        return scalar(rw, node.args[0])
    if is_call(node, *_BELOW, *_ABOVE) and is_call(node.args[0], *_UNIFORM):
        bound = scalar(rw, node.args[1])
        if bound is None:
            return None
        return bound if is_call(node, *_BELOW) else 1 - bound
    if is_call(node, aten.floor.default):
        shifted = plus_scalar(rw, node.args[0])
        if shifted is not None and is_call(shifted[0], *_UNIFORM):
            return shifted[1]
    return None
