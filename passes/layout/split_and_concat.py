"""Layout rules of operators that take tensors apart or join them along an axis."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from torch import fx

from frontend.schema import arguments
from passes.layout.placement import Placement, isolated
from passes.layout.plan import MAX_RANK, LayoutPlan, Placements, sizes
from passes.patterns.nodes import argument, aten, axis, input_of, is_call, shape
from passes.rewriter import Rewriter

# Operators that make axes longer or shorter and move nothing.
LENGTH_CHANGES = (
    aten.slice.Tensor,
    aten.pad.default,
    aten.constant_pad_nd.default,
    aten.cat.default,
)


def pull(node: fx.Node, placement: Placement) -> list[tuple[fx.Node, Placement]]:
    """The placements from which one of ``LENGTH_CHANGES`` yields ``placement``."""
    rank = len(shape(node))
    given = argument(node, "tensors") if is_call(node, aten.cat.default) else [input_of(node)]
    fitting = [x for x in given if len(shape(x)) == rank]
    # An axis that only the result has no length along stands nowhere in its placement.
    return [
        (x, _without_ones(placement, x))
        for x in fitting
        if all(sizes(x)[a] == 1 for a in range(rank) if sizes(node)[a] == 1)
    ]


def narrow(node: fx.Node, placements: Placements, wanted: Placement | None) -> LayoutPlan | None:
    """``slice.Tensor``; one of a larger step wants its axis apart."""
    x, where = input_of(node), _where(node)
    size, bounds = sizes(x)[where], (argument(node, "start"), argument(node, "end"))
    step = argument(node, "step")
    if not isinstance(size, int) or not all(b is None or isinstance(b, int) for b in bounds):
        return None
    start, stop, _ = slice(*bounds).indices(size)
    if step == 1:
        taken = _finer(placements.get(x), wanted)
        return _piece(node, x, where, start, stop, taken, drop=False)
    placement = _apart(x, [where], placements)
    if placement is None:
        return None

    def emit(rw: Rewriter, inputs: Sequence[fx.Node]) -> fx.Node:
        return rw.emit(aten.slice.Tensor, inputs[0], placement.place(where), start, stop, step)

    length = len(range(start, stop, step))
    return LayoutPlan(((x, placement),), _part_placement(placement, where, length, False), emit)


def pad(node: fx.Node, placements: Placements, wanted: Placement | None) -> LayoutPlan | None:
    """Padding by a constant; each axis that it makes longer lies apart."""
    x, rank = input_of(node), len(shape(node))
    if "mode" in arguments(node) and argument(node, "mode") != "constant":
        return None
    amounts = list(argument(node, "pad"))
    pairs = {rank - 1 - i: amounts[2 * i : 2 * i + 2] for i in range(len(amounts) // 2)}
    pairs = {where: pair for where, pair in pairs.items() if pair != [0, 0]}
    placement = _apart(x, list(pairs), placements)
    if placement is None:
        return None
    moved = [0] * (2 * placement.rank)
    for where, pair in pairs.items():
        place = placement.place(where)
        assert place is not None
        start = 2 * (placement.rank - 1 - place)
        moved[start : start + 2] = pair

    def emit(rw: Rewriter, inputs: Sequence[fx.Node]) -> fx.Node:
        return rw.emit(node.target, inputs[0], moved, *node.args[2:], **node.kwargs)

    return LayoutPlan(((x, placement),), placement, emit)


def _apart(x: fx.Node, where: list[int], placements: Placements) -> Placement | None:
    """The placement of ``x`` with some axes alone, none of which has size one."""
    if x not in placements or any(sizes(x)[a] == 1 for a in where):
        return None
    return isolated(placements[x], where, MAX_RANK)


def _where(node: fx.Node) -> int:
    """The axis of the first input that ``node`` works along."""
    return axis(argument(node, "dim"), len(shape(input_of(node))))


def select(node: fx.Node, placements: Placements, wanted: Placement | None) -> LayoutPlan | None:
    """``select.int``, as a slice whose axis of size one the placement leaves out."""
    x, place, index = input_of(node), _where(node), argument(node, "index")
    size = sizes(x)[place]
    if not isinstance(size, int) or not isinstance(index, int):
        return None
    start = axis(index, size)
    return _piece(node, x, place, start, start + 1, placements.get(x), drop=True)


def _piece(
    node: fx.Node,
    x: fx.Node,
    where: int,
    start: int,
    stop: int,
    taken: Placement | None,
    *,
    drop: bool,
) -> LayoutPlan | None:
    found = _outermost(x, where, taken)
    if found is None:
        return None
    placement, inner = found
    place = placement.place(where)

    def emit(rw: Rewriter, inputs: Sequence[fx.Node]) -> fx.Node:
        return rw.emit(aten.slice.Tensor, inputs[0], place, start * inner, stop * inner)

    return LayoutPlan(
        ((x, placement),), _part_placement(placement, where, stop - start, drop), emit
    )


def _finer(placement: Placement | None, wanted: Placement | None) -> Placement | None:
    """``wanted`` where it only takes apart what ``placement`` holds together."""
    if placement is None or wanted is None or wanted.order != placement.order:
        return placement
    return wanted if wanted.parts > placement.parts else placement


def _part_placement(placement: Placement, where: int, size: int, drop: bool) -> Placement:
    kept = placement if size != 1 else placement.renamed(lambda a: None if a == where else a)
    return kept.renamed(lambda a: a - 1 if a > where else a) if drop else kept


def _outermost(x: fx.Node, where: int, placement: Placement | None) -> tuple[Placement, int] | None:
    """A placement with ``where`` outermost in its group, and the size of what is inside of it."""
    if placement is None or sizes(x)[where] == 1:
        return None
    if all(group[:1] != (where,) for group in placement.groups):
        apart = isolated(placement, [where], MAX_RANK)
        if apart is None:
            return None
        placement = apart
    inner = 1
    for a in next(group for group in placement.groups if group[:1] == (where,))[1:]:
        size = sizes(x)[a]
        if not isinstance(size, int):
            return None
        inner *= size
    return placement, inner


def split(node: fx.Node, placements: Placements, wanted: Placement | None) -> LayoutPlan | None:
    """split and unbind; ``getitem`` picks the parts."""
    x, where = input_of(node), _where(node)
    unbind = node.target is aten.unbind.int
    found = _outermost(x, where, placements.get(x))
    values = node.meta["val"]
    lengths = [1 if unbind else part.shape[where] for part in values]
    if found is None or not all(isinstance(n, int) for n in lengths):
        return None
    placement, inner = found
    if len({n == 1 for n in lengths}) > 1:
        return None  # a part of size one has another placement than the others
    place = placement.place(where)

    def emit(rw: Rewriter, inputs: Sequence[fx.Node]) -> fx.Node:
        parts = [n * inner for n in lengths]
        return rw.emit(aten.split_with_sizes.default, inputs[0], parts, place)

    return LayoutPlan(
        ((x, placement),), _part_placement(placement, where, lengths[0], unbind), emit
    )


def glu(node: fx.Node, placements: Placements, wanted: Placement | None) -> LayoutPlan | None:
    """A half gated by the other."""
    x, where = input_of(node), _where(node)
    found = _outermost(x, where, placements.get(x))
    if found is None:
        return None
    placement, _ = found
    half = shape(node)[where]
    if not isinstance(half, int):
        return None

    def emit(rw: Rewriter, inputs: Sequence[fx.Node]) -> fx.Node:
        return rw.emit(aten.glu.default, inputs[0], placement.place(where))

    return LayoutPlan(((x, placement),), _part_placement(placement, where, half, False), emit)


def getitem(node: fx.Node, placements: Placements, wanted: Placement | None) -> LayoutPlan | None:
    """A part of a split."""
    parts, index = input_of(node), node.args[1]
    placement = placements.get(parts)
    if placement is None:
        return None
    return LayoutPlan(
        ((parts, placement),),
        placement,
        lambda rw, inputs: rw.emit(operator.getitem, inputs[0], index),
    )


def cat(node: fx.Node, placements: Placements, wanted: Placement | None) -> LayoutPlan | None:
    """Concatenation along an axis that is outermost in its group."""
    parts: list[fx.Node] = list(argument(node, "tensors"))
    rank = len(shape(node))
    where = axis(argument(node, "dim"), rank)
    if any(len(shape(x)) != rank for x in parts):
        return None  # torch lets an empty rank-1 tensor join
    leader = next((x for x in parts if x in placements and sizes(x)[where] != 1), None)
    found = _outermost(leader, where, wanted or placements[leader]) if leader is not None else None
    if found is None:
        return None
    placement, _ = found
    place = placement.place(where)
    taken = tuple((x, _without_ones(placement, x)) for x in parts)

    def emit(rw: Rewriter, inputs: Sequence[fx.Node]) -> fx.Node:
        return rw.emit(aten.cat.default, list(inputs), place)

    return LayoutPlan(taken, placement, emit)


def _without_ones(placement: Placement, x: fx.Node) -> Placement:
    return placement.renamed(lambda a: a if sizes(x)[a] != 1 else None)
