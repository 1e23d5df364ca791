"""How each operator runs on tensors whose axes lie in another order than the program spells.

A rule looks at a node and at the forms of its inputs and returns a ``Plan``: in which form it
takes each input, in which form its result comes out, and how to emit it. An operator without a
rule, or whose rule returns ``None``, runs plainly.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from passes.elementwise import ELEMENTWISE
from passes.form import Form, Size, isolated, plain, through_reshape
from passes.match import aten, axis, is_call, is_tensor, shape
from passes.rewriter import Rewriter

# Core ML tensors have at most five axes (documented: Core ML's MLMultiArray and MIL's ops); the
# ANE wants four (documented: Apple, "Deploying Transformers on the Apple Neural Engine").
MAX_RANK = 5

Emit = Callable[[Rewriter, Sequence[fx.Node]], fx.Node]
Forms = Mapping[fx.Node, Form]


@dataclass(frozen=True)
class Plan:
    """How to run one node in image layout.

    Attributes:
        inputs: the tensors it takes, each with the form it takes it in.
        output: the form of its result (of each part, for an operator that yields a list).
        emit: writes the operator on physical inputs; ``None`` if the result is the first input
            regrouped, which takes a reshape at most.
    """

    inputs: tuple[tuple[fx.Node, Form], ...]
    output: Form
    emit: Emit | None


def sizes(node: fx.Node) -> tuple[Size, ...]:
    """Logical sizes; symbolic ones as expressions, which compare without adding guards."""
    return tuple(
        size if isinstance(size, int) else size.node.expr for size in node.meta["val"].shape
    )


def plan(node: fx.Node, forms: Forms, wanted: Form | None) -> Plan | None:
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


def _elementwise(node: fx.Node, forms: Forms, wanted: Form | None) -> Plan | None:
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

    return Plan(taken, refined, emit)


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


def _along_axes(node: fx.Node, forms: Forms, wanted: Form | None) -> Plan | None:
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

    return Plan(((x, form),), form, emit)


def _with_axes_apart(x: fx.Node, axes: Sequence[int], form: Form | None) -> Form | None:
    if form is None or any(sizes(x)[a] == 1 for a in axes):
        return None
    return isolated(form, axes, MAX_RANK)


def _reduction(node: fx.Node, forms: Forms, wanted: Form | None) -> Plan | None:
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
    output = form.renamed(
        lambda a: None if a in axes else (a if keep else left.index(a))
    )
    named_kwargs = {k: v for k, v in node.kwargs.items() if k not in ("dim", "keepdim")}

    def emit(rw: Rewriter, inputs: Sequence[fx.Node]) -> fx.Node:
        where = places[0] if isinstance(named, int) else places
        if node.target is aten.var.correction or node.target is aten.std.correction:
            return rw.emit(node.target, inputs[0], where, keepdim=True, **named_kwargs)
        return rw.emit(node.target, inputs[0], where, True, *node.args[3:], **named_kwargs)

    return Plan(((x, form),), output, emit)


def _permute(node: fx.Node, forms: Forms, wanted: Form | None) -> Plan | None:
    x, order = node.args[0], list(node.args[1])  # type: ignore[arg-type]
    if x not in forms:
        return None
    order = [axis(a, len(order)) for a in order]
    form = forms[x]  # type: ignore[index]
    return Plan(((x, form),), form.renamed(order.index), None)  # type: ignore[arg-type]


def _reshape(node: fx.Node, forms: Forms, wanted: Form | None) -> Plan | None:
    x = node.args[0]
    if x not in forms:
        return None
    form = forms[x]  # type: ignore[index]
    carried = through_reshape(form, sizes(x), sizes(node))  # type: ignore[arg-type]
    return None if carried is None else Plan(((x, form),), carried.gives, None)  # type: ignore[arg-type]


def _slice(node: fx.Node, forms: Forms, wanted: Form | None) -> Plan | None:
    x, where, *bounds = node.args
    assert isinstance(x, fx.Node)
    bounds = bounds + [None] * (3 - len(bounds))
    size = sizes(x)[axis(where, len(shape(x)))]  # type: ignore[arg-type]
    step = node.kwargs.get("step", bounds[2]) or 1
    if step != 1 or not isinstance(size, int):
        return None
    if not all(b is None or isinstance(b, int) for b in bounds):
        return None
    start, stop, _ = slice(bounds[0], bounds[1]).indices(size)
    return _piece(node, x, axis(where, len(shape(x))), start, stop, forms, drop=False)  # type: ignore[arg-type]


def _select(node: fx.Node, forms: Forms, wanted: Form | None) -> Plan | None:
    x, where, index = node.args
    assert isinstance(x, fx.Node)
    place = axis(where, len(shape(x)))  # type: ignore[arg-type]
    size = sizes(x)[place]
    if not isinstance(size, int) or not isinstance(index, int):
        return None
    start = axis(index, size)
    return _piece(node, x, place, start, start + 1, forms, drop=True)


def _piece(
    node: fx.Node, x: fx.Node, where: int, start: int, stop: int, forms: Forms, *, drop: bool
) -> Plan | None:
    found = _outermost(x, where, forms.get(x))
    if found is None:
        return None
    form, inner = found
    place = form.place(where)

    def emit(rw: Rewriter, inputs: Sequence[fx.Node]) -> fx.Node:
        return rw.emit(aten.slice.Tensor, inputs[0], place, start * inner, stop * inner)

    return Plan(((x, form),), _part_form(form, where, stop - start, drop), emit)


def _part_form(form: Form, where: int, size: int, drop: bool) -> Form:
    kept = form if size != 1 else form.renamed(lambda a: None if a == where else a)
    return kept.renamed(lambda a: a - 1 if a > where else a) if drop else kept


def _outermost(x: fx.Node, where: int, form: Form | None) -> tuple[Form, int] | None:
    """A form with ``where`` outermost in its group, and the size of what is inside of it."""
    if form is None or sizes(x)[where] == 1:
        return None
    place = form.place(where)
    assert place is not None
    if form.groups[place][0] != where:
        apart = isolated(form, [where], MAX_RANK)
        if apart is None:
            return None
        form, place = apart, apart.place(where)
    inner = 1
    for a in form.groups[place][1:]:  # type: ignore[index]
        size = sizes(x)[a]
        if not isinstance(size, int):
            return None
        inner *= size
    return form, inner


def _parts(node: fx.Node, forms: Forms, wanted: Form | None) -> Plan | None:
    """split and unbind; ``getitem`` picks the parts."""
    x = node.args[0]
    assert isinstance(x, fx.Node)
    unbind = node.target is aten.unbind.int
    given = node.args[1 if unbind else 2] if len(node.args) > (1 if unbind else 2) else 0
    where = axis(node.kwargs.get("dim", given), len(shape(x)))  # type: ignore[arg-type]
    found = _outermost(x, where, forms.get(x))
    values = node.meta["val"]
    lengths = [1 if unbind else part.shape[where] for part in values]
    if found is None or not all(isinstance(n, int) for n in lengths):
        return None
    form, inner = found
    if len({n == 1 for n in lengths}) > 1:
        return None  # a part of size one has another form than the others
    place = form.place(where)

    def emit(rw: Rewriter, inputs: Sequence[fx.Node]) -> fx.Node:
        parts = [n * inner for n in lengths]
        return rw.emit(aten.split_with_sizes.default, inputs[0], parts, place)

    return Plan(((x, form),), _part_form(form, where, lengths[0], unbind), emit)


def _getitem(node: fx.Node, forms: Forms, wanted: Form | None) -> Plan | None:
    source, index = node.args
    if source not in forms:
        return None
    form = forms[source]  # type: ignore[index]
    return Plan(
        ((source, form),),  # type: ignore[arg-type]
        form,
        lambda rw, inputs: rw.emit(operator.getitem, inputs[0], index),
    )


def _cat(node: fx.Node, forms: Forms, wanted: Form | None) -> Plan | None:
    parts = list(node.args[0])  # type: ignore[arg-type]
    rank = len(shape(node))
    given = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    where = axis(given, rank)  # type: ignore[arg-type]
    if any(len(shape(x)) != rank for x in parts):
        return None  # torch lets an empty rank-1 tensor join
    leader = next((x for x in parts if x in forms and sizes(x)[where] != 1), None)
    found = _outermost(leader, where, wanted or forms[leader]) if leader is not None else None
    if found is None:
        return None
    form, _ = found
    place = form.place(where)
    taken = tuple(
        (x, form.renamed(lambda a, x=x: a if sizes(x)[a] != 1 else None)) for x in parts
    )

    def emit(rw: Rewriter, inputs: Sequence[fx.Node]) -> fx.Node:
        return rw.emit(aten.cat.default, list(inputs), place)

    return Plan(taken, form, emit)


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
_RULES: Mapping[Any, Callable[[fx.Node, Forms, Form | None], Plan | None]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(_SAME_SHAPE, _along_axes),
    **dict.fromkeys(_RESHAPES, _reshape),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    aten.permute.default: _permute,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.cat.default: _cat,
    aten.split.Tensor: _parts,
    aten.split_with_sizes.default: _parts,
    aten.unbind.int: _parts,
    operator.getitem: _getitem,
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


def plain_form(node: fx.Node) -> Form:
    """The form of ``node`` as the program spells it."""
    return plain(sizes(node))
