"""Small questions that passes ask about nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import torch
from torch import fx
from torch.fx.node import Argument

from frontend.schema import arguments

aten = torch.ops.aten

Target = Callable[..., Any] | str
"""What a node calls; a name where it is no ``call_function``."""


def shape(node: fx.Node) -> tuple[Any, ...]:
    """Shape of the tensor that ``node`` yields, of the first of several; symbols stay symbols."""
    value = node.meta["val"]
    return tuple((value[0] if isinstance(value, list | tuple) else value).shape)


def dtype(node: fx.Node) -> torch.dtype:
    """Dtype of the tensor that ``node`` yields."""
    return node.meta["val"].dtype


def is_tensor(value: Argument) -> TypeGuard[fx.Node]:
    """True for a node that yields one tensor."""
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.Tensor)


def is_static(node: fx.Node) -> bool:
    """True if no size of the tensor is symbolic."""
    return all(isinstance(size, int) for size in shape(node))


def is_call(node: Argument, *targets: Target) -> TypeGuard[fx.Node]:
    """True for a node that calls one of ``targets``."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def only_user(node: fx.Node) -> fx.Node | None:
    """The single user of ``node``, ``None`` if there are more or none."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def argument(node: fx.Node, name: str) -> Any:
    """The argument that the schema of ``node``'s operator calls ``name``, or its default."""
    return arguments(node)[name]


def input_of(node: fx.Node, position: int = 0) -> fx.Node:
    """An argument of a call, by default the first, which is a node."""
    found = node.args[position]
    assert isinstance(found, fx.Node), node.format_node()
    return found


def axis(index: int, rank: int) -> int:
    """A non-negative axis."""
    return index + rank if index < 0 else index


def axes(node: fx.Node, name: str, rank: int) -> list[int] | None:
    """The axes, of ``rank``, that an argument names by a number or a list; all for an empty list.

    Returns:
        Non-negative axes in the order of the argument, ``None`` where it is left out.
    """
    given = argument(node, name)
    if given is None:
        return None
    named = [given] if isinstance(given, int) else list(given) or list(range(rank))
    return [axis(index, rank) for index in named]


def permuted_axes(permute: fx.Node) -> list[int]:
    """The axes that a permutation moves to 0, 1, ..., none of them negative."""
    named = argument(permute, "dims")
    return [axis(a, len(named)) for a in named]


def replaced(
    node: fx.Node, instead: Mapping[fx.Node, fx.Node]
) -> tuple[tuple[Argument, ...], dict[str, Argument]]:
    """The arguments of a call, some of its operands in the place of others."""

    def operand(given: fx.Node) -> fx.Node:
        return instead.get(given, given)

    args, kwargs = fx.map_arg((node.args, node.kwargs), operand)
    return args, dict(kwargs)
