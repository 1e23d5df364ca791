"""A stretch of operators is written with its last two axes swapped where that saves moves."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import fx

from frontend.ops import layer_norm, rms_norm
from passes.base import Pass
from passes.patterns.nodes import (
    argument,
    aten,
    axis,
    is_call,
    is_static,
    is_tensor,
    permuted_axes,
    shape,
)
from passes.patterns.operators import RESHAPES
from passes.patterns.pointwise import is_pointwise_call
from passes.rewriter import Rewriter

# (batch, head, width, token)
_RANK = 4
_HEAD, _WIDTH, _TOKEN = 1, 2, 3
_SWAPPED = (0, _HEAD, _TOKEN, _WIDTH)
_ALONG_AXIS = (aten.slice.Tensor, aten.cat.default, aten.split_with_sizes.default)
_NORMS = (layer_norm, rms_norm)


@dataclass(frozen=True)
class SwapLastAxes(Pass):
    """Computes with (B, H, D, T) in the form (B, H, T, D) where that saves permutations.

    A stretch of operators that work on single elements, or along an axis, begins with reshapes and
    ends with permutations of the last two axes. It is written in the other form if fewer moves are
    needed: one permutation behind each reshape instead of those at the ends. Of one token both
    forms lie in memory alike: a permutation is a reshape then, and the reshapes that begin the
    stretch make the other form at once. Exact, but for the order of sums in norms.
    """

    name: ClassVar[str] = "swap_last_axes"

    def apply(self, rw: Rewriter) -> None:
        """Looks at each stretch once, starting from a move behind it."""
        seen: set[fx.Node] = set()
        for node in rw.find(aten.permute.default, *RESHAPES):
            last = node.args[0]
            if not isinstance(last, fx.Node) or last in seen or not _has_form(last):
                continue
            stretch = _stretch(last)
            seen |= stretch.nodes
            if stretch.saved(rw) > 0:
                _swap(rw, stretch)


@dataclass
class _Stretch:
    """Operators that change form together.

    Attributes:
        nodes: the operators, the reshapes that begin it included.
        begins: those reshapes.
        ends: moves that read it.
        besides: operands that are broadcast, and no part of it.
        is_closed: whether nothing else reads it.
    """

    nodes: set[fx.Node] = field(default_factory=set)
    begins: set[fx.Node] = field(default_factory=set)
    ends: set[fx.Node] = field(default_factory=set)
    besides: set[fx.Node] = field(default_factory=set)
    is_closed: bool = True

    def saved(self, rw: Rewriter) -> int:
        """How many moves fewer there are afterwards."""
        if not self.is_closed:
            return 0
        gone = sum(map(_is_swap, self.ends))
        others = [end for end in self.ends if not _is_swap(end)]
        made = [node for node in (*self.begins, *others) if shape(node)[-1] != 1 != _tokens(node)]
        moved = [
            node
            for node in self.besides
            if not rw.is_constant(node) and not is_call(node, *RESHAPES)
        ]
        return gone - len(made) - len(moved)


def _tokens(node: fx.Node) -> int:
    source = node if _has_form(node) else node.all_input_nodes[0]
    size: int = shape(source)[_TOKEN]
    return size


def _has_form(node: fx.Node) -> bool:
    if not is_tensor(node) or not is_static(node):
        return False
    return len(shape(node)) == _RANK and shape(node)[_WIDTH] > 1


def _swapped(sizes: Sequence[int]) -> tuple[int, ...]:
    return tuple(sizes[a] for a in _SWAPPED)


def _is_swap(node: fx.Node) -> bool:
    """Whether a move of a value does nothing but swap its last two axes."""
    source = node.all_input_nodes[0]
    if is_call(node, aten.permute.default):
        return tuple(permuted_axes(node)) == _SWAPPED
    return shape(source)[_TOKEN] == 1 and shape(node) == _swapped(shape(source))


def _stretch(last: fx.Node) -> _Stretch:
    """All that must change form with ``last``."""
    found = _Stretch()
    pending = [last]
    while pending and found.is_closed:
        node = pending.pop()
        if node in found.nodes:
            continue
        found.nodes.add(node)
        if is_call(node, *RESHAPES):
            found.begins.add(node)
        elif not _is_member(node):
            found.is_closed = False
            break
        else:
            for operand in node.all_input_nodes:
                if _is_broadcast(node, operand):
                    found.besides.add(operand)
                elif _is_split(operand) or _has_form(operand):
                    pending.append(operand)
        for user in node.users:
            if is_call(user, aten.permute.default, *RESHAPES):
                found.ends.add(user)
            else:
                pending.append(user)
    return found


def _is_split(node: fx.Node) -> bool:
    return is_call(node, aten.split_with_sizes.default)


def _is_member(node: fx.Node) -> bool:
    """Whether the operator can be written in the other form."""
    if node.target is operator.getitem:
        return _is_split(node.all_input_nodes[0])
    if _is_split(node):
        return _has_form(node.all_input_nodes[0])
    if not _has_form(node):
        return False
    if is_call(node, *_NORMS):
        return True
    if is_call(node, *_ALONG_AXIS):
        return all(map(_has_form, node.all_input_nodes))  # what is joined may be a single row
    return is_pointwise_call(node) and all(
        _is_broadcast(node, operand) or _has_form(operand) for operand in node.all_input_nodes
    )


def _is_broadcast(node: fx.Node, operand: fx.Node) -> bool:
    """Whether an operand is the same for all heads: numbers along the width, or one number."""
    if not is_pointwise_call(node) or not is_tensor(operand) or not is_static(operand):
        return False
    sizes = shape(operand)
    padded = (1,) * (_RANK - len(sizes)) + tuple(sizes)
    heads = shape(node)[_HEAD]
    return len(padded) == _RANK and padded[_TOKEN] == 1 and padded[_HEAD] == 1 and heads > 1


def _swap(rw: Rewriter, stretch: _Stretch) -> None:
    new: dict[fx.Node, fx.Node] = {}
    for node in [node for node in rw.nodes() if node in stretch.nodes or node in stretch.ends]:
        with rw.at(node):
            if node in stretch.ends:
                value = new[node.all_input_nodes[0]]
                rw.replace(node, value if _is_swap(node) else _end(rw, node, value))
            elif node in stretch.begins:
                new[node] = _begin(rw, node)
            else:
                new[node] = _written(rw, node, new)


def _begin(rw: Rewriter, node: fx.Node) -> fx.Node:
    if shape(node)[_TOKEN] == 1:
        return _reshaped(rw, node.all_input_nodes[0], _swapped(shape(node)))
    with rw.after(node):
        return rw.emit(aten.permute.default, node, list(_SWAPPED))


def _end(rw: Rewriter, node: fx.Node, value: fx.Node) -> fx.Node:
    """A move of another kind, of the value in its new form."""
    if shape(value)[_WIDTH] == 1 and is_call(node, *RESHAPES):
        return _reshaped(rw, value, shape(node))
    back = rw.emit(aten.permute.default, value, list(_SWAPPED))
    return rw.emit(node.target, back, *node.args[1:], **node.kwargs)


def _written(rw: Rewriter, node: fx.Node, new: dict[fx.Node, fx.Node]) -> fx.Node:
    """``node`` in the other form."""

    def operand(value: fx.Node) -> fx.Node:
        if value in new:
            return new[value]
        return _beside(rw, value) if is_pointwise_call(node) else value

    args: list[Any] = list(fx.map_arg(node.args, operand))
    kwargs = dict(fx.map_arg(node.kwargs, operand))
    if is_call(node, *_NORMS):
        args[1] = sorted(_SWAPPED[axis(a, _RANK)] for a in args[1])
    elif is_call(node, *_ALONG_AXIS):
        along = _SWAPPED[axis(argument(node, "dim"), _RANK)]
        place = 2 if _is_split(node) else 1
        args[place:] = [along, *args[place + 1 :]]
        kwargs.pop("dim", None)
    return rw.emit(node.target, *args, **kwargs)


def _beside(rw: Rewriter, value: fx.Node) -> fx.Node:
    """A broadcast operand in a shape that fits the other form."""
    if not is_tensor(value) or value.meta["val"].numel() == 1:
        return value
    source = value
    while is_call(source, *RESHAPES) and isinstance(source.args[0], fx.Node):
        source = source.args[0]
    width = value.meta["val"].numel()
    if is_static(source) and shape(source)[-1:] == (width,) and len(shape(source)) <= _RANK:
        return source  # its other axes are of size one, and stand in front
    return _reshaped(rw, source, (1,) * (_RANK - 1) + (width,))


def _reshaped(rw: Rewriter, source: fx.Node, sizes: Sequence[int]) -> fx.Node:
    while is_call(source, *RESHAPES) and isinstance(source.args[0], fx.Node):
        source = source.args[0]
    if tuple(shape(source)) == tuple(sizes):
        return source
    return rw.emit(aten.reshape.default, source, list(sizes))
