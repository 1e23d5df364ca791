"""The arguments of a call by the names in its operator's schema.

FX keeps a call as the program spells it: by position, by name, or left out where the default is
meant. Whoever asks for an argument asks here, by its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload


@cache
def parameters(target: OpOverload) -> tuple[torch.Argument, ...]:
    """The parameters of ``target`` in the order of its schema."""
    return tuple(target._schema.arguments)


def bound(target: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a call of ``target`` passes, by parameter, defaults filled in.

    A parameter without a default that the call does not pass is ``None``.
    """
    found = {}
    for position, parameter in enumerate(parameters(target)):
        if position < len(args) and not parameter.kwarg_only:
            found[parameter.name] = args[position]
        else:
            found[parameter.name] = kwargs.get(parameter.name, parameter.default_value)
    return found


def arguments(node: fx.Node) -> dict[str, Any]:
    """As ``bound``, of a graph's call; empty where the call is of no operator with a schema."""
    if node.op != "call_function" or not isinstance(node.target, OpOverload):
        return {}
    return bound(node.target, node.args, node.kwargs)


def replaced(node: fx.Node, changes: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments of ``node``'s call with others for some parameters."""
    assert isinstance(node.target, OpOverload), node.target
    args, kwargs = list(node.args), dict(node.kwargs)
    for position, parameter in enumerate(parameters(node.target)):
        if parameter.name not in changes:
            continue
        if position < len(args):
            args[position] = changes[parameter.name]
        else:
            kwargs[parameter.name] = changes[parameter.name]
    return args, kwargs


def written(target: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    """The arguments of a call that ``target`` writes to in place."""
    given = bound(target, args, kwargs)
    for parameter in parameters(target):
        if parameter.alias_info is not None and parameter.alias_info.is_write:
            yield given[parameter.name]
