"""Which calls draw random numbers, which hold whatever the memory held, and which are pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from frontend.schema import bound

_aten = torch.ops.aten

UNINITIALISED = frozenset({_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty})
"""Overload packets of operators whose result is arbitrary."""


def draws_random(node: fx.Node) -> bool:
    """True for a call whose result depends on the state of a random generator."""
    return node.op == "call_function" and draws(node.target, node.args, node.kwargs)


def draws(target: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether ``target``, called so, draws random numbers.

    torch tags operators, not calls: attention with a dropout probability of zero draws nothing,
    nor does a recurrent layer that is not being trained, though the operators may.
    """
    if not may_draw(target):
        return False
    given = bound(target, args, kwargs) if isinstance(target, OpOverload) else {}
    probability = given.get("dropout_p", given.get("dropout"))
    if isinstance(probability, int | float) and probability == 0:
        return False
    trains = given.get("train", given.get("training"))
    return trains is None or bool(trains)


def may_draw(target: object) -> bool:
    """Whether some call of ``target`` draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())


def is_pure(node: fx.Node) -> bool:
    """True for a call of an operator whose results follow from its arguments, and that writes to
    none of them."""
    target = node.target
    if not isinstance(target, OpOverload):
        return getattr(target, "__module__", "") == "_operator"
    return not target._schema.is_mutable and not draws_random(node)
