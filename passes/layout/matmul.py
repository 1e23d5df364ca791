"""Layout rule of products of two activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import fx

from passes.layout.placement import Placement
from passes.layout.plan import LayoutPlan, Placements, plain_placement
from passes.patterns.nodes import aten, is_call, shape
from passes.rewriter import Rewriter


def matmul(node: fx.Node, placements: Placements, wanted: Placement | None) -> LayoutPlan | None:
    """Products of two activations: MIL's matmul takes either operand with its last axes swapped."""
    left, right = node.args
    assert isinstance(left, fx.Node) and isinstance(right, fx.Node)
    rank = len(shape(node))
    if any(len(shape(x)) != rank for x in (left, right)) or rank < 3:
        return None
    if left not in placements and right not in placements:
        return None
    swapped = [
        _lies_swapped(x, placements.get(x)) and not _is_flag(x, placements) for x in (left, right)
    ]
    if not any(swapped) and wanted in (None, plain_placement(node)):
        return None
    taken = tuple(
        (x, _swapped_placement(x) if swap else plain_placement(x))
        for x, swap in zip((left, right), swapped, strict=True)
    )
    # (L R)^T = R^T L^T: the product comes out transposed for free where that is asked for.
    turned = wanted is not None and _lies_swapped(node, wanted)
    output = _swapped_placement(node) if turned else plain_placement(node)

    def emit(rw: Rewriter, inputs: Sequence[fx.Node]) -> fx.Node:
        # What lies swapped is swapped back on the way in, and the other way round if turned.
        one, other = (
            _swap(rw, x) if swap != turned else x for x, swap in zip(inputs, swapped, strict=True)
        )
        return rw.emit(node.target, other, one) if turned else rw.emit(node.target, one, other)

    return LayoutPlan(taken, output, emit)


def _lies_swapped(x: fx.Node, placement: Placement | None) -> bool:
    return (
        placement is not None
        and placement.order == _swapped_placement(x).order != plain_placement(x).order
    )


def _is_flag(x: fx.Node, placements: Placements) -> bool:
    """True for a swap of a plain tensor: the product takes it as it is spelled."""
    if not is_call(x, aten.permute.default):
        return False
    source = cast(fx.Node, x.args[0])
    return source not in placements or placements[source] == plain_placement(source)


def _swapped_placement(x: fx.Node) -> Placement:
    groups = plain_placement(x).groups
    return Placement((*groups[:-2], groups[-1], groups[-2]))


def _swap(rw: Rewriter, x: fx.Node) -> fx.Node:
    """The last two axes swapped: a flag of MIL's matmul, not a transposition."""
    rank = len(shape(x))
    return rw.emit(aten.permute.default, x, [*range(rank - 2), rank - 1, rank - 2])
