"""Calls of one kind, and of one family: kinds that differ in their sizes alone.

A kind decides what torch takes a call apart into, sizes and strides of the results included. Its
family decides which operators these are: those that torch leaves whole, and the few below whose
pieces ask for no size. Half of the kinds of a network for images are its convolutions.
"""

from __future__ import annotations

import operator
from collections.abc import Container, Hashable
from dataclasses import dataclass
from typing import cast

import torch
from torch import fx
from torch._ops import OperatorBase, OpOverload
from torch.utils import _pytree as pytree

from frontend.fake_calls import fake_call
from frontend.preserve import PRESERVED

_aten = torch.ops.aten
# Taken apart alike whatever the sizes, but for empty tensors.
_SIZELESS = (
    *(_aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default),
    _aten.batch_norm.default,
)


@dataclass(frozen=True)
class Piece:
    """What one kind of call is taken apart into.

    Attributes:
        given: placeholders of the tensors that the call reads, each once, in order.
        steps: the operators, in order.
        results: what the call returns, one for each tensor: of ``steps`` or ``given``.
    """

    given: tuple[fx.Node, ...]
    steps: tuple[fx.Node, ...]
    results: tuple[fx.Node, ...]


class UnknownKindError(Exception):
    """An argument of a call is neither a tensor nor a plain value."""


def kind_of(call: fx.Node, value: object) -> Hashable:
    """What decides how a call is taken apart: which tensors are one, their layouts, numbers.

    Raises:
        UnknownKindError: there is more to it.
    """
    if isinstance(value, fx.Node):
        tensor = value.meta.get("val")
        if not isinstance(tensor, torch.Tensor):
            raise UnknownKindError
        position = call.all_input_nodes.index(value)
        layout = (tuple(tensor.shape), tensor.stride(), tensor.storage_offset())
        return position, layout, tensor.dtype, tensor.device
    if isinstance(value, list | tuple):
        return (type(value), *(kind_of(call, part) for part in value))
    if isinstance(value, dict):
        return tuple((name, kind_of(call, part)) for name, part in sorted(value.items()))
    if isinstance(value, float):
        return float, value.hex()  # zero has a sign
    if value is None or isinstance(
        value, bool | int | str | torch.dtype | torch.device | torch.layout | torch.memory_format
    ):
        return type(value), value
    raise UnknownKindError


def family_of(
    call: fx.Node, target: OpOverload, taken_apart: Container[OperatorBase]
) -> Hashable | None:
    """What ``call`` has in common with calls of other sizes; ``None`` where sizes may decide.

    Args:
        call: has a kind.
        target: its functional operator.
        taken_apart: the operators that a table takes apart; others stay whole, whatever their
            numbers, but for composites.
    """
    if any(not node.meta["val"].numel() for node in call.all_input_nodes):
        return None
    if target not in taken_apart and not _is_composite(target):
        return target, _blind(call, (call.args, call.kwargs), numbers=False)
    if target in _SIZELESS:
        return target, _blind(call, (call.args, call.kwargs), numbers=True)
    return None


def _is_composite(target: OpOverload) -> bool:
    """Whether torch takes an operator apart by itself: it keeps those that are preserved."""
    return target._can_decompose() and target.__name__ not in PRESERVED


def _blind(call: fx.Node, value: object, numbers: bool) -> Hashable:
    """The part of a kind that says nothing of sizes, and of no number where none counts."""
    if isinstance(value, fx.Node):
        tensor = value.meta["val"]
        position = call.all_input_nodes.index(value)
        return position, tensor.dim(), tensor.dtype, tensor.device
    if isinstance(value, list | tuple):
        return (type(value), *(_blind(call, part, numbers) for part in value))
    if isinstance(value, dict):
        return tuple((name, _blind(call, part, numbers)) for name, part in sorted(value.items()))
    return kind_of(call, value) if numbers else (type(value),)


def piece_like(piece: Piece, example: fx.Node, call: fx.Node, target: OpOverload) -> Piece | None:
    """The piece of ``call``, given that of another call of its family; ``None`` if none follows."""
    given = fx.Graph()
    stand_ins = {node: given.placeholder(node.name) for node in call.all_input_nodes}
    for node, stand_in in stand_ins.items():
        stand_in.meta["val"] = node.meta["val"]
    if _is_whole(piece, example, target):
        args, kwargs = fx.map_arg((call.args, call.kwargs), stand_ins.__getitem__)
        step = given.call_function(target, args, kwargs)
        step.meta["val"] = pytree.tree_map_only(torch.Tensor, _detached, call.meta["val"])
        results = results_of(step)
        steps = results if step in results else [step, *results]
        return Piece(tuple(stand_ins.values()), tuple(steps), tuple(results))
    if target not in _SIZELESS:
        return None
    now = dict(zip(piece.given, stand_ins.values(), strict=True))
    with torch.no_grad():
        for old in piece.steps:
            now[old] = step = given.node_copy(old, now.__getitem__)
            step.meta = {"val": _value(step)}
    return Piece(
        tuple(stand_ins.values()),
        tuple(now[step] for step in piece.steps),
        tuple(now[result] for result in piece.results),
    )


def _value(step: fx.Node) -> object:
    first = step.all_input_nodes[0].meta["val"]
    if step.target is operator.getitem:
        return first[cast(int, step.args[1])]
    return fake_call(step.target, step.args, step.kwargs, first.fake_mode)


def _detached(value: torch.Tensor) -> torch.Tensor:
    return value.detach() if value.requires_grad else value


def _is_whole(piece: Piece, call: fx.Node, target: OpOverload) -> bool:
    """Whether torch left ``call`` as it is."""
    steps = [step for step in piece.steps if step.target is not operator.getitem]
    if len(steps) != 1 or steps[0].target is not target:
        return False
    (step,) = steps
    now = dict(zip(call.all_input_nodes, piece.given, strict=True))
    same = fx.map_arg((call.args, call.kwargs), now.__getitem__)
    if (step.args, step.kwargs) != same:
        return False
    return all(
        result is step or (result.target is operator.getitem and result.args == (step, place))
        for place, result in enumerate(piece.results)
    )


def results_of(call: fx.Node) -> list[fx.Node]:
    """``call`` itself, or :func:`parts_of` it where it gives several tensors."""
    return [call] if isinstance(call.meta["val"], torch.Tensor) else parts_of(call)


def parts_of(call: fx.Node) -> list[fx.Node]:
    """A ``getitem`` behind ``call``, the last node of its graph, for each of its results."""
    found = []
    for place, value in enumerate(call.meta["val"]):
        part = call.graph.call_function(operator.getitem, (call, place))
        part.meta = {**call.meta, "val": value}
        found.append(part)
    return found


def tensors_of(value: object) -> list[torch.Tensor]:
    """The tensors that a call gives, by its ``meta["val"]``."""
    if value is None:
        return []
    return cast(list[torch.Tensor], list(value) if isinstance(value, list | tuple) else [value])
