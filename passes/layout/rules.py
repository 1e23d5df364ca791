"""How each operator runs on tensors whose axes lie in another order than the program spells.

A rule looks at a node and at the forms of its inputs and returns a ``LayoutPlan``: in which form it
takes each input, in which form its result comes out, and how to emit it. An operator without a
rule, or whose rule returns ``None``, runs plainly.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from passes.layout import matmul, split_and_concat
from passes.layout.placement import Form, isolated, through_reshape
from passes.layout.plan import MAX_RANK, Forms, LayoutPlan, sizes
from passes.patterns.nodes import aten, axis, is_call, is_tensor, shape
from passes.patterns.pointwise import ELEMENTWISE
from passes.rewriter import Rewriter


def plan(node: fx.Node, forms: Forms, wanted: Form | None) -> LayoutPlan | None:
    """The plan of ``node`` given the image ``forms`` of its inputs, as far as they have one.

    ``wanted`` is the form its consumers ask for; rules that can choose follow it.
    """
    rule = _RULES.get(node.target) if node.op == "call_function" else None
    if rule is None:
        return None
    found = rule(node, forms, wanted)
    if found is None or found.output.rank > MAX_RANK:
        return None
    return None if any(form.rank > MAX_RANK for _, form in found.inputs) else found


def pull(node: fx.Node, form: Form) -> list[tuple[fx.Node, Form]]:
    """The forms of the inputs from which ``node`` yields ``form`` without moving data."""
    if node.op != "call_function":
        return []
    target = node.target
    source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
    if target in ELEMENTWISE:
        return [
            (x, _restricted(form, node, x))
            for x in node.all_input_nodes
            if is_tensor(x) and _spans(x, node)
        ]
    if source is None or not is_tensor(source):
        return []
    if target in _SAME_SHAPE:
        return [(source, form)]
    if target is aten.permute.default:
        order = node.args[1]
        return [(source, form.renamed(lambda a: axis(order[a], len(order))))]  # type: ignore[index,arg-type]
    if target in _RESHAPES:
        back = through_reshape(form, sizes(node), sizes(source))
        return [(source, back.gives)] if back is not None else []
    return []


def _elementwise(node: fx.Node, forms: Forms, wanted: Form | None) -> LayoutPlan | None:
    inputs = [x for x in node.all_input_nodes if is_tensor(x)]
    form = wanted
    if form is None:
        spanning = [x for x in inputs if x in forms and _spans(x, node)]
        if not spanning:
            return None
        form = forms[spanning[0]]
    # Groups stay merged only where every input has all of their axes or none.
    split = [
        a
        for group in form.groups
        for a in group
        if any(0 < sum(_has(x, node, b) for b in group) < len(group) for x in inputs)
    ]
    refined = isolated(form, split, MAX_RANK) if split else form
    if refined is None:
        return None
    taken = tuple((x, _restricted(refined, node, x)) for x in inputs)

    def emit(rw: Rewriter, physical: Sequence[fx.Node]) -> fx.Node:
        swap = dict(zip(inputs, physical, strict=True))
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: swap.get(n, n))
        return rw.emit(node.target, *args, **kwargs)

    return LayoutPlan(taken, refined, emit)


def _has(x: fx.Node, node: fx.Node, out_axis: int) -> bool:
    """True if ``x`` is not broadcast along an axis of the elementwise ``node``."""
    own = out_axis - (len(shape(node)) - len(shape(x)))
    return own >= 0 and sizes(x)[own] != 1


def _spans(x: fx.Node, node: fx.Node) -> bool:
    return sizes(x) == sizes(node)


def _restricted(form: Form, node: fx.Node, x: fx.Node) -> Form:
    """The form in which ``x`` broadcasts against a result of ``form``."""
    shift = len(shape(node)) - len(shape(x))
    return form.renamed(lambda a: a - shift if _has(x, node, a) else None)


def _along_axes(node: fx.Node, forms: Forms, wanted: Form | None) -> LayoutPlan | None:
    """Softmax and norms: shape kept, some axes treated together."""
    x, axes, *rest = node.args
    assert isinstance(x, fx.Node)
    named = axes if isinstance(axes, list | tuple) else [axes]
    moved = [axis(a, len(shape(x))) for a in named]  # type: ignore[arg-type]
    form = _with_axes_apart(x, moved, wanted or forms.get(x))
    if form is None:
        return None
    places = [form.place(a) for a in moved]
    if places != sorted(places):  # type: ignore[type-var]
        return None  # the affine of a norm is laid out in the order of its axes
    physical = places if isinstance(axes, list | tuple) else places[0]

    def emit(rw: Rewriter, inputs: Sequence[fx.Node]) -> fx.Node:
        return rw.emit(node.target, inputs[0], physical, *rest, **node.kwargs)

    return LayoutPlan(((x, form),), form, emit)


def _with_axes_apart(x: fx.Node, axes: Sequence[int], form: Form | None) -> Form | None:
    if form is None or any(sizes(x)[a] == 1 for a in axes):
        return None
    return isolated(form, axes, MAX_RANK)


def _reduction(node: fx.Node, forms: Forms, wanted: Form | None) -> LayoutPlan | None:
    x = node.args[0]
    named = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if not isinstance(x, fx.Node) or not isinstance(named, list | tuple | int) or named == []:
        return None
    rank = len(shape(x))
    axes = [axis(a, rank) for a in ([named] if isinstance(named, int) else named)]
    form = _with_axes_apart(x, axes, forms.get(x))
    if form is None:
        return None
    places = [form.place(a) for a in axes]
    keep = len(shape(node)) == rank
    left = [a for a in range(rank) if a not in axes]
    output = form.renamed(lambda a: None if a in axes else (a if keep else left.index(a)))
    named_kwargs = {k: v for k, v in node.kwargs.items() if k not in ("dim", "keepdim")}

    def emit(rw: Rewriter, inputs: Sequence[fx.Node]) -> fx.Node:
        where = places[0] if isinstance(named, int) else places
        if node.target is aten.var.correction or node.target is aten.std.correction:
            return rw.emit(node.target, inputs[0], where, keepdim=True, **named_kwargs)
        return rw.emit(node.target, inputs[0], where, True, *node.args[3:], **named_kwargs)

    return LayoutPlan(((x, form),), output, emit)


def _permute(node: fx.Node, forms: Forms, wanted: Form | None) -> LayoutPlan | None:
    x, order = node.args[0], list(node.args[1])  # type: ignore[arg-type]
    if x not in forms:
        return None
    order = [axis(a, len(order)) for a in order]
    form = forms[x]  # type: ignore[index]
    return LayoutPlan(((x, form),), form.renamed(order.index), None)  # type: ignore[arg-type]


def _reshape(node: fx.Node, forms: Forms, wanted: Form | None) -> LayoutPlan | None:
    x = node.args[0]
    if x not in forms:
        return None
    form = forms[x]  # type: ignore[index]
    carried = through_reshape(form, sizes(x), sizes(node))  # type: ignore[arg-type]
    return None if carried is None else LayoutPlan(((x, form),), carried.gives, None)  # type: ignore[arg-type]


def _expand(node: fx.Node, forms: Forms, wanted: Form | None) -> LayoutPlan | None:
    """Axes of size one are repeated: each gets a physical axis behind the one before it."""
    x = node.args[0]
    if x not in forms or len(shape(x)) != len(shape(node)):  # type: ignore[arg-type]
        return None
    assert isinstance(x, fx.Node)
    wide = [a for a in range(len(shape(node))) if sizes(x)[a] == 1 and sizes(node)[a] != 1]
    apart = isolated(forms[x], [a for a in range(len(shape(x))) if sizes(x)[a] != 1], MAX_RANK)
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

    return LayoutPlan(((x, Form(tuple(taken))),), Form(tuple(given)), emit)


_SAME_SHAPE = (
    aten.softmax.int,
    aten._softmax.default,
    aten.log_softmax.int,
    aten._log_softmax.default,
    torch.ops.ane.layer_norm.default,
    torch.ops.ane.rms_norm.default,
)
_RESHAPES = (
    aten.reshape.default,
    aten.unsqueeze.default,
    aten.squeeze.dims,
    aten.squeeze.dim,
    aten.squeeze.default,
)
_REDUCTIONS = (
    aten.mean.dim,
    aten.sum.dim_IntList,
    aten.amax.default,
    aten.amin.default,
    aten.logsumexp.default,
    aten.var.correction,
    aten.std.correction,
)
_RULES: Mapping[Any, Callable[[fx.Node, Forms, Form | None], LayoutPlan | None]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(_SAME_SHAPE, _along_axes),
    **dict.fromkeys(_RESHAPES, _reshape),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    aten.matmul.default: matmul.matmul,
    aten.bmm.default: matmul.matmul,
    aten.permute.default: _permute,
    aten.expand.default: _expand,
    aten.slice.Tensor: split_and_concat.narrow,
    aten.select.int: split_and_concat.select,
    aten.cat.default: split_and_concat.cat,
    aten.split.Tensor: split_and_concat.split,
    aten.split_with_sizes.default: split_and_concat.split,
    aten.unbind.int: split_and_concat.split,
    aten.glu.default: split_and_concat.glu,
    operator.getitem: split_and_concat.getitem,
}


def is_image_native(node: fx.Node) -> bool:
    """True for an operator that wants its first input, and yields its result, as an image."""
    return is_call(node, *_IMAGE_NATIVE) and len(shape(node.args[0])) == 4  # type: ignore[arg-type]


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
