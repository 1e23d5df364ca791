"""How each operator runs on tensors whose axes lie in another order than the program spells.

A rule looks at a node and at the placements of its inputs and returns a ``LayoutPlan``: in
which placement it takes each input, in which its result comes out, and how to emit it. An operator
without a rule, or whose rule returns ``None``, runs plainly.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx

from frontend import ops
from frontend.schema import arguments
from passes.layout import matmul, split_and_concat
from passes.layout.placement import Placement, isolated, through_reshape
from passes.layout.plan import MAX_RANK, LayoutPlan, Placements, sizes
from passes.patterns.nodes import (
    argument,
    aten,
    axes,
    axis,
    input_of,
    is_call,
    is_tensor,
    permuted_axes,
    shape,
)
from passes.patterns.operators import (
    LOG_SOFTMAXES,
    MATMULS,
    PARTS,
    REDUCTIONS,
    RESHAPES,
    SOFTMAXES,
)
from passes.patterns.pointwise import is_pointwise_call
from passes.rewriter import Rewriter


def plan(node: fx.Node, placements: Placements, wanted: Placement | None) -> LayoutPlan | None:
    """The plan of ``node`` given the image ``placements`` of its inputs, as far as they have one.

    ``wanted`` is the placement its consumers ask for; rules that can choose follow it.
    """
    if node.op != "call_function":
        return None
    rule = _pointwise if is_pointwise_call(node) else _RULES.get(node.target)
    if rule is None:
        return None
    found = rule(node, placements, wanted)
    if found is None or found.output.rank > MAX_RANK:
        return None
    return None if any(placement.rank > MAX_RANK for _, placement in found.inputs) else found


def pull(node: fx.Node, placement: Placement) -> list[tuple[fx.Node, Placement]]:
    """The placements of the inputs from which ``node`` yields ``placement`` without moving data."""
    if node.op != "call_function":
        return []
    if is_pointwise_call(node):
        return [
            (x, _restricted(placement, node, x))
            for x in node.all_input_nodes
            if is_tensor(x) and _spans(x, node)
        ]
    if is_call(node, *_SAME_SHAPE):
        return [(input_of(node), placement)]
    if is_call(node, aten.permute.default):
        order = permuted_axes(node)
        return [(input_of(node), placement.renamed(lambda a: order[a]))]
    if is_call(node, *split_and_concat.LENGTH_CHANGES):
        return split_and_concat.pull(node, placement)
    if is_call(node, *RESHAPES):
        x = input_of(node)
        back = through_reshape(placement, sizes(node), sizes(x))
        return [(x, back.gives)] if back is not None else []
    return []


def _pointwise(
    node: fx.Node, placements: Placements, wanted: Placement | None
) -> LayoutPlan | None:
    inputs = [x for x in node.all_input_nodes if is_tensor(x)]
    placement = wanted
    if placement is None:
        spanning = [x for x in inputs if x in placements and _spans(x, node)]
        if not spanning:
            return None
        placement = placements[spanning[0]]
    # Groups stay merged only where every input has all of their axes or none.
    split = [
        a
        for group in placement.groups
        for a in group
        if any(0 < sum(_has(x, node, b) for b in group) < len(group) for x in inputs)
    ]
    refined = isolated(placement, split, MAX_RANK) if split else placement
    if refined is None:
        return None
    taken = tuple((x, _restricted(refined, node, x)) for x in inputs)

    def emit(rw: Rewriter, physical: Sequence[fx.Node]) -> fx.Node:
        swap = dict(zip(inputs, physical, strict=True))
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: swap.get(n, n))
        return rw.emit(node.target, *args, **kwargs)

    return LayoutPlan(taken, refined, emit)


def _prelu(node: fx.Node, placements: Placements, wanted: Placement | None) -> LayoutPlan | None:
    """With one slope for all elements; more lie along the second axis of what it is given."""
    x, weight = arguments(node).values()
    placement = wanted or placements.get(x)
    if placement is None or sizes(weight) not in ((), (1,)):
        return None
    return LayoutPlan(
        ((x, placement),), placement, lambda rw, inputs: rw.emit(node.target, inputs[0], weight)
    )


def _has(x: fx.Node, node: fx.Node, out_axis: int) -> bool:
    """True if ``x`` is not broadcast along an axis of the pointwise ``node``."""
    own = out_axis - (len(shape(node)) - len(shape(x)))
    return own >= 0 and sizes(x)[own] != 1


def _spans(x: fx.Node, node: fx.Node) -> bool:
    return sizes(x) == sizes(node)


def _restricted(placement: Placement, node: fx.Node, x: fx.Node) -> Placement:
    """The placement in which ``x`` broadcasts against a result of ``placement``."""
    shift = len(shape(node)) - len(shape(x))
    return placement.renamed(lambda a: a - shift if _has(x, node, a) else None)


def _along_axes(
    node: fx.Node, placements: Placements, wanted: Placement | None
) -> LayoutPlan | None:
    """Softmax and norms: shape kept, some axes treated together."""
    x = input_of(node)
    named: Any = node.args[1]
    moved = [axis(a, len(shape(x))) for a in ([named] if isinstance(named, int) else named)]
    placement = _with_axes_apart(x, moved, wanted or placements.get(x))
    if placement is None:
        return None
    places = _places(placement, moved)
    if places != sorted(places):
        return None  # the affine of a norm is laid out in the order of its axes
    physical = places[0] if isinstance(named, int) else places

    def emit(rw: Rewriter, inputs: Sequence[fx.Node]) -> fx.Node:
        return rw.emit(node.target, inputs[0], physical, *node.args[2:], **node.kwargs)

    return LayoutPlan(((x, placement),), placement, emit)


def _with_axes_apart(
    x: fx.Node, axes: Sequence[int], placement: Placement | None
) -> Placement | None:
    if placement is None or any(sizes(x)[a] == 1 for a in axes):
        return None
    return isolated(placement, axes, MAX_RANK)


def _places(placement: Placement, axes: Sequence[int]) -> list[int]:
    """The physical axes of ``axes``, none of which has size one."""
    return [place for a in axes if (place := placement.place(a)) is not None]


def _reduction(
    node: fx.Node, placements: Placements, wanted: Placement | None
) -> LayoutPlan | None:
    x, rank = input_of(node), len(shape(input_of(node)))
    reduced = axes(node, "dim", rank)
    placement = _with_axes_apart(x, reduced, placements.get(x)) if reduced is not None else None
    if reduced is None or placement is None:
        return None
    places = _places(placement, reduced)
    keep = len(shape(node)) == rank
    left = [a for a in range(rank) if a not in reduced]
    output = placement.renamed(lambda a: None if a in reduced else (a if keep else left.index(a)))
    named_kwargs = {k: v for k, v in node.kwargs.items() if k not in ("dim", "keepdim")}

    def emit(rw: Rewriter, inputs: Sequence[fx.Node]) -> fx.Node:
        where = places[0] if isinstance(argument(node, "dim"), int) else places
        if node.target is aten.var.correction or node.target is aten.std.correction:
            return rw.emit(node.target, inputs[0], where, keepdim=True, **named_kwargs)
        return rw.emit(node.target, inputs[0], where, True, *node.args[3:], **named_kwargs)

    return LayoutPlan(((x, placement),), output, emit)


def _permute(node: fx.Node, placements: Placements, wanted: Placement | None) -> LayoutPlan | None:
    placement = placements.get(input_of(node))
    if placement is None:
        return None
    output = placement.renamed(permuted_axes(node).index)
    return LayoutPlan(((input_of(node), placement),), output, None)


def _reshape(node: fx.Node, placements: Placements, wanted: Placement | None) -> LayoutPlan | None:
    x = input_of(node)
    carried = through_reshape(placements[x], sizes(x), sizes(node)) if x in placements else None
    return None if carried is None else LayoutPlan(((x, placements[x]),), carried.gives, None)


def _expand(node: fx.Node, placements: Placements, wanted: Placement | None) -> LayoutPlan | None:
    """Axes of size one are repeated: each gets a physical axis behind the one before it."""
    x = input_of(node)
    if x not in placements or len(shape(x)) != len(shape(node)):
        return None
    wide = [a for a in range(len(shape(node))) if sizes(x)[a] == 1 and sizes(node)[a] != 1]
    apart = isolated(placements[x], [a for a in range(len(shape(x))) if sizes(x)[a] != 1], MAX_RANK)
    if apart is None or not all(isinstance(n, int) for n in shape(node)):
        return None
    taken, given = list(apart.groups), list(apart.groups)
    for a in wide:
        before = [p for p, group in enumerate(given) if group and group[0] < a]
        place = before[-1] + 1 if before else 0
        if place < len(given) and not given[place]:
            given[place] = (a,)
        else:
            given.insert(place, (a,))
            taken.insert(place, ())
    lengths = [sizes(node)[group[0]] if group else 1 for group in given]

    def emit(rw: Rewriter, inputs: Sequence[fx.Node]) -> fx.Node:
        return rw.emit(aten.expand.default, inputs[0], lengths)

    return LayoutPlan(((x, Placement(tuple(taken))),), Placement(tuple(given)), emit)


_SAME_SHAPE = (
    *SOFTMAXES,
    *LOG_SOFTMAXES,
    ops.layer_norm,
    ops.rms_norm,
)
_RULES: Mapping[Any, Callable[[fx.Node, Placements, Placement | None], LayoutPlan | None]] = {
    **dict.fromkeys(_SAME_SHAPE, _along_axes),
    **dict.fromkeys(RESHAPES, _reshape),
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(MATMULS, matmul.matmul),
    aten.prelu.default: _prelu,
    aten.permute.default: _permute,
    aten.expand.default: _expand,
    aten.slice.Tensor: split_and_concat.narrow,
    aten.pad.default: split_and_concat.pad,
    aten.constant_pad_nd.default: split_and_concat.pad,
    aten.select.int: split_and_concat.select,
    aten.cat.default: split_and_concat.cat,
    **dict.fromkeys(PARTS, split_and_concat.split),
    aten.glu.default: split_and_concat.glu,
    operator.getitem: split_and_concat.getitem,
}


def is_image_native(node: fx.Node) -> bool:
    """True for an operator that wants its first input, and yields its result, as an image."""
    return is_call(node, *_IMAGE_NATIVE) and len(shape(input_of(node))) == 4


_IMAGE_NATIVE = (
    aten.convolution.default,
    aten.max_pool2d.default,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten._adaptive_avg_pool2d.default,
    aten.upsample_nearest2d.vec,
    aten.upsample_bilinear2d.vec,
    aten.upsample_nearest2d.default,
    aten.upsample_bilinear2d.default,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
    aten._native_batch_norm_legit_no_training.default,
    aten.group_norm.default,
    aten.instance_norm.default,
)
