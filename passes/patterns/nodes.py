"""Small questions that passes ask about nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten


def shape(node: fx.Node) -> tuple[Any, ...]:
    """Shape of the tensor that ``node`` yields; symbolic sizes stay symbolic."""
    return tuple(node.meta["val"].shape)


def dtype(node: fx.Node) -> torch.dtype:
    """Dtype of the tensor that ``node`` yields."""
    return node.meta["val"].dtype


def is_tensor(value: Any) -> bool:
    """True for a node that yields one tensor."""
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.Tensor)


def is_static(node: fx.Node) -> bool:
    """True if no size of the tensor is symbolic."""
    return all(isinstance(size, int) for size in shape(node))


def is_call(node: Any, *targets: Any) -> bool:
    """True for a node that calls one of ``targets``."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def only_user(node: fx.Node) -> fx.Node | None:
    """The single user of ``node``, ``None`` if there are more or none."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """An argument by position or by name, as the call spells it."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def axis(index: int, rank: int) -> int:
    """A non-negative axis."""
    return index + rank if index < 0 else index
