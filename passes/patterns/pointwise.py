"""The operators that treat every element alone, with broadcasting.

torch says so itself, by a tag on the overload; where its word does not hold, a table here.
"""

from __future__ import annotations

import torch
from torch import fx
from torch._ops import OpOverload

from frontend.random_calls import draws_random

aten = torch.ops.aten

# Pointwise without the tag.
_UNTAGGED = frozenset(
    {
        aten._prelu_kernel.default,  # its slopes broadcast, other than those of prelu
        aten._to_copy.default,
        aten.complex.default,
        aten.floor_divide.default,
        aten.floor_divide.Scalar,
        aten.full_like.default,
        aten.hardswish.default,
        aten.masked_fill.Tensor,
        aten.ones_like.default,
        aten.polar.default,
        aten.rsub.Tensor,
        aten.where.Scalar,
        aten.where.ScalarOther,
        aten.where.ScalarSelf,
        aten.zeros_like.default,
    }
)
# Tagged, and not pointwise: one truth value of two whole tensors.
_WHOLE = frozenset({aten.equal.default})


def is_pointwise(target: object) -> bool:
    """True for an operator without side effects whose results, one or several, have the shape of
    its broadcast inputs, each element computed from the inputs' elements at its place."""
    if not isinstance(target, OpOverload) or target._schema.is_mutable or target in _WHOLE:
        return False
    return target in _UNTAGGED or torch.Tag.pointwise in target.tags


def is_pointwise_call(node: fx.Node) -> bool:
    """As ``is_pointwise``, of a call; one that draws random numbers is none."""
    return node.op == "call_function" and is_pointwise(node.target) and not draws_random(node)
