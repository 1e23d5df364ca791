"""Writes to a part of a tensor, each as one slice update of what is written.

An exported program is functional: ``cache[layer, :, position] = new`` becomes a read of the layer,
a write into what was read, and a write of the whole layer back. coremltools 9.0 makes the last of
these a ``tile`` and a ``select`` over the whole cache, and a write at an index tensor a scatter
between two transposes. Here such a nest of writes is one operator, which becomes MIL's
``slice_update`` of the numbers that change, and which a state takes in place
(``state_chains``).

It stays as it is where a size is only known at run time, a slice has steps, or index tensors are
not known to count up by one. A position that is computed counts from the end where it is negative,
as torch has it; a run of several from there must not go through zero, which torch would wrap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor, fx

from frontend.schema import arguments

_LIBRARY = torch.library.Library("ane", "FRAGMENT")
_LIBRARY.define(
    "write_box(Tensor x, Tensor update, int[] begin, int[] sizes, int[] axes, Tensor?[] moving, "
    "int[] wraps) -> Tensor"
)


def _write_box(
    x: Tensor,
    update: Tensor,
    begin: list[int],
    sizes: list[int],
    axes: list[int],
    moving: list[Tensor | None],
    wraps: list[int],
) -> Tensor:
    for axis, place in enumerate(moving):
        if place is not None:
            begin[axis] += int(place) % wraps[axis]
    box = tuple(slice(first, first + size) for first, size in zip(begin, sizes, strict=True))
    written = x.clone()
    update = update.expand([sizes[axis] for axis in axes])
    for axis in range(x.dim()):
        update = update if axis in axes else update.unsqueeze(axis)
    written[box] = update
    return written


_LIBRARY.impl("write_box", _write_box, "CompositeExplicitAutograd")
torch.library.register_fake("ane::write_box", lambda x, *_: torch.empty_like(x), lib=_LIBRARY)

write_box = torch.ops.ane.write_box.default
"""``x`` with ``update`` written from ``begin`` on, ``sizes`` wide. ``axes`` are those that
``update`` has, which is widened to the box; where ``moving`` has an element it is added to
``begin``, counted from the end of ``wraps`` places where it is negative."""

_aten = torch.ops.aten
_PUTS = (_aten.index_put.default, _aten._unsafe_index_put.default)
_COPY = _aten.index_copy.default
_WRITES = (_aten.select_scatter.default, _aten.slice_scatter.default, *_PUTS, _COPY)
_READS = {
    _aten.select_scatter.default: _aten.select.int,
    _aten.slice_scatter.default: _aten.slice.Tensor,
}

_Number: TypeAlias = int | fx.Node
"""A place as a graph has it; a node where it is computed."""

Constant: TypeAlias = Callable[[fx.Node], torch.Tensor | None]
"""Gives the tensor behind a placeholder, ``None`` for what is no constant."""


@dataclass(frozen=True)
class _Span:
    """Where a write stands along one axis: from ``begin``, and ``moving`` if any, ``size`` long.

    Attributes:
        begin: the part of the first place that is a number.
        size: how many places.
        moving: an index of one element that is computed.
        wrap: size of the axis that ``moving`` counts from the end of where it is negative.
    """

    begin: int
    size: int
    moving: fx.Node | None = None
    wrap: int = 0


@dataclass(frozen=True)
class _Part:
    """One write: the axis of its target, the place, and whether what is written lacks the axis."""

    dim: int
    span: _Span
    dropped: bool


def write_boxes(graph: fx.Graph, constant: Constant) -> None:
    """Rewrites every write of ``graph`` that is one box of its target, in place."""
    for node in reversed(list(graph.nodes)):
        if node.target not in _WRITES:
            continue
        if node.users:
            _rewrite(graph, node, constant)
        else:
            graph.erase_node(node)  # inside of a nest that is one write now


def _rewrite(graph: fx.Graph, node: fx.Node, constant: Constant) -> None:
    target = _through_whole_slices(_node(node.args[0]))
    whole = target.meta["val"]
    if not all(isinstance(size, int) for size in whole.shape):
        return
    spans = [_Span(0, size) for size in whole.shape]
    axes = list(range(whole.dim()))  # of the target, for each axis of what is being written
    inner, update = node, node
    while (part := _part(inner, constant)) is not None:
        axis = axes.pop(part.dim) if part.dropped else axes[part.dim]
        if spans[axis].moving is not None and part.span.moving is not None:
            return
        outer = spans[axis]
        spans[axis] = replace(
            part.span if part.span.moving is not None else outer,
            begin=outer.begin + part.span.begin,
            size=part.span.size,
        )
        update = _written(inner)
        if not _goes_on(inner, update):
            break
        inner = update
    if update is node or update.meta["val"].dtype != whole.dtype or not _is_smaller(spans, whole):
        return
    begin, sizes, moving, wraps = (
        [getattr(span, name) for span in spans] for name in ("begin", "size", "moving", "wrap")
    )
    with graph.inserting_before(node):
        made = graph.call_function(write_box, (target, update, begin, sizes, axes, moving, wraps))
    made.meta = dict(node.meta)
    name = node.name
    node.replace_all_uses_with(made)
    graph.erase_node(node)
    made.name = name


def _is_smaller(spans: Sequence[_Span], whole: torch.Tensor) -> bool:
    return any(span.size < size for span, size in zip(spans, whole.shape, strict=True))


def _node(value: object) -> fx.Node:
    assert isinstance(value, fx.Node)
    return value


def _written(node: fx.Node) -> fx.Node:
    given = arguments(node)
    return _node(next(given[name] for name in ("src", "values", "source") if name in given))


def _goes_on(outer: fx.Node, inner: fx.Node) -> bool:
    """Whether ``inner`` is a write into just what ``outer`` puts back."""
    if inner.target not in _WRITES or outer.target not in _READS:
        return False
    view = _through_whole_slices(_node(inner.args[0]))
    if view.target is not _READS[outer.target] or _place(view) != _place(outer):
        return False
    return _is_same(_node(view.args[0]), _node(outer.args[0]))


def _is_same(one: fx.Node, other: fx.Node) -> bool:
    """Whether two nodes are one value: torch reads a part anew for every write to it."""
    one, other = _through_whole_slices(one), _through_whole_slices(other)
    if one is other:
        return True
    if one.target is not other.target or one.target not in _READS.values():
        return False
    return _place(one) == _place(other) and _is_same(_node(one.args[0]), _node(other.args[0]))


def _place(node: fx.Node) -> tuple[object, ...]:
    """Axis and numbers of a select, a slice, or a write of one; counted from the front."""
    given = arguments(node)
    sizes = _node(node.args[0]).meta["val"].shape
    dim = given["dim"] % len(sizes)
    if "index" in given:
        return dim, _counted(given["index"], sizes[dim])
    start, end = _ends(given, sizes[dim])
    return dim, start, end, given["step"]


def _counted(index: _Number, size: int) -> _Number:
    return index + size if isinstance(index, int) and index < 0 else index


def _ends(given: Mapping[str, _Number | None], size: int) -> tuple[_Number, _Number]:
    """Start and end of a slice: numbers within the axis, or nodes."""
    ends = []
    for name, default in (("start", 0), ("end", size)):
        found = given[name]
        value = default if found is None else _counted(found, size)
        ends.append(min(max(value, 0), size) if isinstance(value, int) else value)
    return ends[0], ends[1]


def _through_whole_slices(node: fx.Node) -> fx.Node:
    """What ``node`` is a slice of from end to end."""
    while node.target is _aten.slice.Tensor:
        source = _node(node.args[0])
        if node.meta["val"].shape != source.meta["val"].shape:
            return node
        node = source
    return node


def _part(node: fx.Node, constant: Constant) -> _Part | None:
    """What ``node`` writes, ``None`` where it is no box that is known here."""
    sizes = _node(node.args[0]).meta["val"].shape
    given = arguments(node)
    if node.target is _COPY:
        return _indexed_part(given["dim"] % len(sizes), given["index"], sizes, constant, False)
    if node.target in _PUTS:
        pairs = [(dim, index) for dim, index in enumerate(given["indices"]) if index is not None]
        if len(pairs) != 1 or given["accumulate"]:
            return None
        dim, index = pairs[0]
        return _indexed_part(dim, index, sizes, constant, index.meta["val"].dim() == 0)
    axis, *place = _place(node)
    assert isinstance(axis, int)
    if node.target is _aten.select_scatter.default:
        (at,) = place
        return _Part(axis, _Span(at, 1), True) if isinstance(at, int) else None
    start, end, step = place
    if isinstance(start, int) and isinstance(end, int) and step == 1 and start < end:
        return _Part(axis, _Span(start, end - start), False)
    return None


def _indexed_part(
    dim: int, index: fx.Node, sizes: Sequence[int], constant: Constant, dropped: bool
) -> _Part | None:
    places = index.meta["val"]
    if places.dtype in (torch.bool, torch.uint8) or places.dim() > 1:
        return None
    begin = _run(index, constant) if isinstance(places.numel(), int) else None
    if begin is None:
        return None
    number, moving = begin
    number += sizes[dim] if moving is None and number < 0 else 0
    return _Part(dim, _Span(number, places.numel(), moving, sizes[dim]), dropped)


def _run(index: fx.Node, constant: Constant) -> tuple[int, fx.Node | None] | None:
    """First place of an index that counts up by one: a number, and an element to add to it."""
    known = constant(index)
    if known is not None:
        flat = known.flatten()
        steps = torch.arange(flat.numel()) + flat[0] if flat.numel() else flat
        goes_up = flat.numel() > 0 and torch.equal(flat.long(), steps.long())
        # A run that goes through zero wraps in the middle.
        return (int(flat[0]), None) if goes_up and not flat[0] < 0 <= flat[-1] else None
    if index.target in (_aten.arange.default, _aten.arange.start, _aten.arange.start_step):
        given = arguments(index)
        start, step = given.get("start", 0), given.get("step", 1)
        return (start, None) if isinstance(start, int) and step == 1 and start >= 0 else None
    if index.target is _aten.add.Tensor and arguments(index)["alpha"] == 1:
        return _shifted(index, constant)
    return (0, index) if index.meta["val"].numel() == 1 else None


def _shifted(index: fx.Node, constant: Constant) -> tuple[int, fx.Node | None] | None:
    """The run that a sum of a run and one element is."""
    for run, element in (index.args[:2], index.args[1::-1]):
        if not isinstance(run, fx.Node) or not isinstance(element, fx.Node):
            continue
        known = constant(run) is not None or run.target is not _aten.add.Tensor
        begin = _run(run, constant) if known else None
        if begin is not None and begin[1] is None and element.meta["val"].numel() == 1:
            return begin[0], element
    return (0, index) if index.meta["val"].numel() == 1 else None
