"""Which calls draw random numbers, and which hold whatever the memory held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

_aten = torch.ops.aten

UNINITIALISED = frozenset({_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty})
"""Overload packets of operators whose result is arbitrary."""


def draws_random(node: fx.Node) -> bool:
    """True for a call whose result depends on the state of a random generator."""
    return node.op == "call_function" and draws(node.target, node.args, node.kwargs)


def draws(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether ``target``, called so, draws random numbers.

    torch tags operators, not calls: attention with a dropout probability of zero draws nothing,
    nor does a recurrent layer that is not being trained, though the operators may.
    """
    if torch.Tag.nondeterministic_seeded not in getattr(target, "tags", ()):
        return False
    given = _arguments(target, args, kwargs)
    probability = given.get("dropout_p", given.get("dropout"))
    if isinstance(probability, int | float) and probability == 0:
        return False
    return given.get("train") is not False


def _arguments(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a call passes, or the defaults, by parameter."""
    schema = getattr(target, "_schema", None)
    found = {}
    for position, parameter in enumerate(schema.arguments if schema is not None else ()):
        default = kwargs.get(parameter.name, parameter.default_value)
        found[parameter.name] = args[position] if position < len(args) else default
    return found
