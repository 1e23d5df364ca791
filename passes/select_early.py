"""What picks single tokens of a result picks them as far up as nothing mixes tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import fx

from passes.base import Pass
from passes.patterns.nodes import (
    argument,
    aten,
    axes,
    axis,
    is_call,
    is_static,
    is_tensor,
    replaced,
    shape,
)
from passes.patterns.operators import RESHAPES
from passes.patterns.pointwise import is_pointwise_call
from passes.rewriter import Rewriter

_NORMS = (aten.layer_norm.default, aten.rms_norm.default)
_MEANS = (aten.mean.dim, aten.sum.dim_IntList)


@dataclass(frozen=True)
class SelectEarly(Pass):
    """Moves ``index_select`` of a result up through operators that treat each token alone.

    Before: ``index_select(linear(norm(x)), 1, last)``, where the head of a model computes logits of
    all tokens for one that is wanted; after: ``linear(norm(index_select(x, 1, last)))``. It passes
    linear layers, norms, reshapes and permutations that keep the axis, and whatever treats single
    elements, as long as nothing else reads what it passes. Exact, but for the order of sums.
    """

    name: ClassVar[str] = "select_early"
    by_site: ClassVar[bool] = True

    def apply(self, rw: Rewriter) -> None:
        """Moves each selection of fewer elements than there are."""
        for node in rw.find(aten.index_select.default):
            source = cast(fx.Node, node.args[0])
            if not is_static(node) or not is_tensor(source):
                continue
            along = axis(argument(node, "dim"), len(shape(node)))
            count, size = shape(node)[along], shape(source)[along]
            passed = _passed(node, source, along)
            if count < size and passed:
                _move(rw, node, passed)


def _passed(select: fx.Node, source: fx.Node, along: int) -> dict[fx.Node, int]:
    """The operators that the selection passes, lowest first, each with its axis of tokens."""
    passed: dict[fx.Node, int] = {}
    pending = {source: along}
    while pending:
        free = [n for n in pending if all(user is select or user in passed for user in n.users)]
        if not free:
            break
        for node in free:
            at = pending.pop(node)
            above = _above(node, at)
            if above is None:
                continue
            passed[node] = at
            for operand, place in above.items():
                if operand not in passed:
                    pending[operand] = place
    return passed


def _above(node: fx.Node, along: int) -> dict[fx.Node, int] | None:
    """Operands that hold the same tokens, with their axes; ``None`` if tokens may be mixed."""
    if node.op != "call_function" or not is_tensor(node) or not is_static(node):
        return None
    size, behind = shape(node)[along], len(shape(node)) - along
    if is_pointwise_call(node):
        found = {}
        for operand in node.all_input_nodes:
            place = len(shape(operand)) - behind
            if place >= 0 and shape(operand)[place] == size:
                found[operand] = place
        return found
    source = node.all_input_nodes[0]
    if not is_static(source):
        return None
    if is_call(node, aten.linear.default):
        return {source: along} if behind > 1 else None
    if is_call(node, *_NORMS):
        return {source: along} if behind > len(cast("list[int]", node.args[1])) else None
    if is_call(node, *_MEANS):
        over = axes(node, "dim", len(shape(source)))
        keeps = len(shape(source)) == len(shape(node))
        return {source: along} if over and keeps and along not in over else None
    if is_call(node, aten.permute.default):
        order: Any = node.args[1]
        return {source: axis(order[along], len(order))}
    if is_call(node, *RESHAPES):
        return _through_reshape(node, source, along)
    return None


def _through_reshape(node: fx.Node, source: fx.Node, along: int) -> dict[fx.Node, int] | None:
    """The axis of ``source`` that stands behind as many elements, and is as long."""
    ahead = _product(shape(node)[:along])
    for place, size in enumerate(shape(source)):
        if size == shape(node)[along] and _product(shape(source)[:place]) == ahead:
            return {source: place}
    return None


def _product(sizes: tuple[int, ...]) -> int:
    found = 1
    for size in sizes:
        found *= size
    return found


def _move(rw: Rewriter, select: fx.Node, passed: dict[fx.Node, int]) -> None:
    index = argument(select, "index")
    count = shape(select)[axis(argument(select, "dim"), len(shape(select)))]
    new: dict[fx.Node, fx.Node] = {}
    wanted = {operand: place for n, at in passed.items() for operand, place in _own(n, at).items()}

    def selected(operand: fx.Node) -> fx.Node:
        if operand not in new:
            new[operand] = rw.emit(aten.index_select.default, operand, wanted[operand], index)
        return new[operand]

    with rw.at(select):
        for node in [n for n in rw.nodes() if n in passed]:
            instead = {operand: selected(operand) for operand in _own(node, passed[node])}
            args, kwargs = replaced(node, instead)
            if is_call(node, *RESHAPES):
                sizes = list(shape(node))
                sizes[passed[node]] = count
                new[node] = rw.emit(aten.reshape.default, args[0], sizes)
            else:
                new[node] = rw.emit(node.target, *args, **kwargs)
        rw.replace(select, new[cast(fx.Node, select.args[0])])


def _own(node: fx.Node, along: int) -> dict[fx.Node, int]:
    return _above(node, along) or {}
