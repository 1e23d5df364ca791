"""How far the numbers of an input may go, and calls that go there.

An example holds the positions 0 to 7, and the user's text 3,000 of them. What bounds an input is
read from the program: the tables that it is looked up in, and the numbers it is held between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument

from frontend.errors import InputError
from lowering.precision import limits

_aten = torch.ops.aten
_FLAGS = (0, 1)
# A single 0 or 1 may be a first position as well as a flag.
_FEWEST_FLAGS = 2
# Operators that pass integers on as they are.
_MOVES = frozenset(
    {
        _aten._to_copy, _aten.alias, _aten.broadcast_to, _aten.cat, _aten.clone, _aten.detach,
        _aten.expand, _aten.flatten, _aten.permute, _aten.repeat, _aten.reshape, _aten.select,
        _aten.slice, _aten.squeeze, _aten.stack, _aten.to, _aten.transpose, _aten.unsqueeze,
        _aten.view, _aten._unsafe_view,
    }
)  # fmt: skip
# Operators that scale numbers, through which an input is still a position or a time.
_SCALES = frozenset({_aten.add, _aten.div, _aten.mul, _aten.neg, _aten.rsub, _aten.sub})
_ANGLES = frozenset({_aten.cos, _aten.sin, _aten.tan})
# Position of the table, its axis and the indices among the arguments of what looks numbers up.
_LOOK_UPS: Mapping[object, tuple[int, int | None, int]] = {
    _aten.embedding: (0, None, 1),
    _aten.index_select: (0, 1, 2),
    _aten.gather: (0, 1, 2),
}


@dataclass(frozen=True)
class Span:
    """Between which numbers an input may lie.

    Attributes:
        low: the smallest.
        high: the largest.
        reason: where that is from, in words.
    """

    low: float
    high: float
    reason: str


@dataclass(frozen=True)
class InputCall:
    """What a program is run on.

    Attributes:
        inputs: all of the program's tensors.
        words: what is special about them.
    """

    inputs: Mapping[str, Tensor]
    words: str


def check_stated(
    stated: Mapping[str, tuple[float, float]], inputs: Mapping[str, Tensor]
) -> Mapping[str, tuple[float, float]]:
    """``stated`` itself, where it has ranges of ``inputs`` alone.

    Raises:
        InputError: a range is of no input, or the wrong way round.
    """
    for name, (low, high) in stated.items():
        if name not in inputs:
            raise InputError(
                f"a range is given for {name!r}, which is no input",
                expected=", ".join(inputs),
                found=name,
            )
        if not low <= high:
            raise InputError(
                f"the range of input {name!r} is the wrong way round",
                expected="(smallest, largest)",
                found=f"({low}, {high})",
            )
    return stated


def spans(
    program: ExportedProgram,
    inputs: Mapping[str, Tensor],
    given: Mapping[str, tuple[float, float]],
) -> dict[str, Span]:
    """How far inputs of whole numbers may go; those that hold anything else are left out.

    Args:
        program: what takes them.
        inputs: examples by name.
        given: ranges that the user has stated, by name.
    """
    nodes = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    found = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind is not InputKind.USER_INPUT or not isinstance(spec.arg, TensorArgument):
            continue
        name = spec.arg.name
        if name in given:
            found[name] = Span(*given[name], "as stated")
        elif name in inputs:
            span = _span(nodes[name], inputs[name])
            if span is not None:
                found[name] = span
    return found


def end_calls(inputs: Mapping[str, Tensor], found: Mapping[str, Span]) -> Iterator[InputCall]:
    """``inputs`` with all whole numbers at their largest, then at their smallest.

    The distances between the numbers of one input stay as they are, where they fit.

    Args:
        inputs: an example.
        found: from :func:`spans`.
    """
    for at_high in (True, False):
        moved = {
            name: _moved(inputs[name], span, at_high)
            for name, span in found.items()
            if name in inputs
        }
        moved = {name: tensor for name, tensor in moved.items() if not tensor.equal(inputs[name])}
        if not moved:
            continue
        words = [
            f"{name} {'up to' if at_high else 'from'} "
            f"{found[name].high if at_high else found[name].low:,.0f} ({found[name].reason})"
            for name in moved
        ]
        yield InputCall({**inputs, **moved}, "the example with " + ", ".join(words))


def is_position(program: ExportedProgram, name: str) -> bool:
    """Whether input ``name`` reaches arithmetic of floats, rather than tables and comparisons."""
    (node,) = (n for n in program.graph.find_nodes(op="placeholder") if n.name == name)
    return any(_is_float(user) for user in _reached(node, _MOVES | _SCALES))


def _span(node: fx.Node, example: Tensor) -> Span | None:
    if not example.numel() or example.dtype is torch.bool or example.is_complex():
        return None
    if example.is_floating_point():
        whole = bool((example == example.round()).all()) and bool(example.isfinite().all())
        if not whole or not _is_angle(node):
            return None
    else:
        table = min(_tables(node), default=None)
        if table is not None:
            return Span(0, table - 1, f"a table of {table:,}")
    low, high = (float(end) for end in example.aminmax())
    if example.numel() >= _FEWEST_FLAGS and (low, high) in (_FLAGS, (1, 1), (0, 0)):
        return None
    high = max(high, limits.INTEGERS_END)
    return Span(min(low, 0.0), high, "assumed")


def _is_angle(node: fx.Node) -> bool:
    return any(_packet(user) in _ANGLES for user in _reached(node, _MOVES | _SCALES))


def _tables(node: fx.Node) -> Iterator[int]:
    """Sizes of what the numbers of ``node`` are looked up in."""
    for user in _reached(node, _MOVES):
        packet = _packet(user)
        if packet in _LOOK_UPS:
            table, axis, indices = _LOOK_UPS[packet]
            if _passes_on(user.args[indices], node):
                dim = 0 if axis is None else user.args[axis]
                yield from _size(user.args[table], dim)
        elif packet is _aten.index and isinstance(user.args[1], list | tuple):
            for dim, index in enumerate(user.args[1]):
                if isinstance(index, fx.Node) and _passes_on(index, node):
                    yield from _size(user.args[0], dim)


def _size(table: object, dim: object) -> Iterator[int]:
    value = table.meta.get("val") if isinstance(table, fx.Node) else None
    if isinstance(value, Tensor) and isinstance(dim, int) and value.ndim:
        size = value.shape[dim]
        if isinstance(size, int):
            yield size


def _passes_on(index: object, node: fx.Node) -> bool:
    """``index`` is ``node``, moved at most."""
    while isinstance(index, fx.Node) and index is not node:
        if _packet(index) not in _MOVES or not index.all_input_nodes:
            return False
        index = index.all_input_nodes[0]
    return index is node


def _reached(node: fx.Node, through: frozenset[object]) -> Sequence[fx.Node]:
    """Every node that reads ``node``, or what operators ``through`` make of it."""
    found: dict[fx.Node, None] = {}
    open_nodes = [node]
    while open_nodes:
        for user in open_nodes.pop().users:
            if user not in found:
                found[user] = None
                if _packet(user) in through:
                    open_nodes.append(user)
    return tuple(found)


def _packet(node: fx.Node) -> object:
    return getattr(node.target, "overloadpacket", None)


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point() and _packet(node) in _SCALES


def _moved(example: Tensor, span: Span, at_high: bool) -> Tensor:
    low, high = example.aminmax()
    shift = span.high - high if at_high else span.low - low
    return (example + shift.to(example.dtype)).clamp(span.low, span.high).to(example.dtype)
