"""How each operator runs on tensors held with few axes: see ``low_rank``.

A rule takes the stand-ins and the node, emits operators of few axes and returns the stand-in of the
result (a tuple for several results), or None where it has no form.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from passes.limit_rank import products
from passes.limit_rank.permutation_steps import runs
from passes.limit_rank.stand_ins import LowRank, Value
from passes.patterns.nodes import argument, aten, axis, is_tensor
from passes.patterns.pointwise import ELEMENTWISE

Rule = Callable[[LowRank, Any], Value | None]


def rule_for(target: Any) -> Rule | None:
    """The rule of an operator, None where there is none."""
    if target in ELEMENTWISE or torch.Tag.pointwise in getattr(target, "tags", ()):
        return _elementwise
    return _RULES.get(target)


def _same_elements(low: LowRank, node: fx.Node) -> Value:
    return low.of(node.args[0])  # type: ignore[arg-type]


def _permute(low: LowRank, node: Any) -> Value:
    source, order = node.args
    return low.permuted(source, low.shape(source), [axis(a, len(order)) for a in order])


def _expand(low: LowRank, node: Any) -> Value:
    return low.expanded(node.args[0], low.shape(node.args[0]), low.shape(node))


def _elementwise(low: LowRank, node: fx.Node) -> Value:
    """Neighbouring axes merge where the same operands are broadcast along them."""
    wanted = low.shape(node)
    used = [place for place, size in enumerate(wanted) if size != 1]
    # A tensor without axes takes part in type promotion as a number does: it stays one.
    operands = [n for n in node.all_input_nodes if is_tensor(n) and low.shape(n)]
    sizes = {n: [1] * (len(wanted) - len(low.shape(n))) + list(low.shape(n)) for n in operands}
    stand_ins: dict[fx.Node, fx.Node] = {}
    for smallest in [None, *sorted(operands, key=lambda n: math.prod(low.shape(n)))]:
        if smallest is not None:
            stand_ins[smallest] = low.expanded(smallest, low.shape(smallest), wanted)
            sizes[smallest] = list(wanted)
        keys = [tuple(sizes[n][place] == wanted[place] for n in operands) for place in used]
        groups = [[used[i] for i in run] for run in runs(keys)]
        if len(groups) <= low.most:
            break
    for n in operands:
        view = [math.prod(sizes[n][place] for place in group) for group in groups] or [1]
        stand_ins[n] = low.view(stand_ins.get(n, n), view)
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: stand_ins.get(n, n))
    return low.rw.emit(node.target, *args, **kwargs)


def _reduce(low: LowRank, node: Any) -> Value:
    source, dims = node.args[0], argument(node, 1, "dim")
    sizes = low.shape(source)
    dims = [dims] if isinstance(dims, int) else dims or range(len(sizes))
    reduced = {axis(d, len(sizes)) for d in dims}
    groups = runs([place in reduced for place in range(len(sizes))])
    if len(groups) <= low.most:
        x = low.view(source, [math.prod(sizes[place] for place in group) for group in groups])
        wanted = [index for index, group in enumerate(groups) if group[0] in reduced]
    else:
        order = [*(p for p in range(len(sizes)) if p not in reduced), *sorted(reduced)]
        count = math.prod(sizes[place] for place in reduced)
        x = low.view(low.permuted(source, sizes, order), [math.prod(sizes) // count, count])
        wanted = [1]
    options = {name: value for name, value in node.kwargs.items() if name not in ("dim", "keepdim")}
    return low.rw.emit(
        node.target, x, wanted[0] if node.target in _OF_ONE_AXIS else wanted, **options
    )


_OF_ONE_AXIS = (
    aten.any.dim,
    aten.all.dim,
    aten.prod.dim_int,
    aten.argmax.default,
    aten.argmin.default,
)


def _along(position: int, default: int = 0) -> Rule:
    """Operators of one axis, whose number is their argument at ``position``."""

    def rule(low: LowRank, node: Any) -> Value:
        source = node.args[0]
        dim = axis(argument(node, position, "dim", default), len(low.shape(source)))
        args = [low.around(source, dim), *node.args[1:]]
        return _parts(low, _along_the_second(low, node.target, args, node.kwargs, position))

    return rule


def _along_the_second(
    low: LowRank, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], position: int
) -> fx.Node:
    """``target`` of stand-ins whose second axis is the one that argument ``position`` names."""
    if position < len(args):
        return low.rw.emit(target, *args[:position], 1, *args[position + 1 :], **kwargs)
    return low.rw.emit(target, *args, **{**kwargs, "dim": 1})


def _parts(low: LowRank, result: fx.Node) -> Value:
    value = result.meta["val"]
    if not isinstance(value, list | tuple):
        return result
    return tuple(low.rw.emit(operator.getitem, result, i) for i in range(len(value)))


def _concat(low: LowRank, node: Any) -> Value:
    sources = node.args[0]
    dim = argument(node, 1, "dim", 0)
    if node.target is aten.stack.default:
        place = axis(dim, len(low.shape(node)))
        sizes = low.shape(sources[0])
        before, after = math.prod(sizes[:place]), math.prod(sizes[place:])
        parts = [low.view(source, [before, 1, after]) for source in sources]
    else:
        parts = [low.around(source, axis(dim, len(low.shape(source)))) for source in sources]
    return low.rw.emit(aten.cat.default, parts, 1)


def _flip(low: LowRank, node: Any) -> Value:
    source, dims = node.args
    sizes, x = low.shape(source), source
    for dim in dims:
        place = axis(dim, len(sizes))
        view = [math.prod(sizes[:place]), sizes[place], math.prod(sizes[place + 1 :])]
        x = low.rw.emit(aten.flip.default, low.view(x, view), [1])
    return x


def _index(low: LowRank, node: Any) -> Value | None:
    source, indices = node.args
    given = [(place, index) for place, index in enumerate(indices) if index is not None]
    if len(given) != 1 or given[0][1].meta["val"].ndim + 2 > low.most:
        return None
    place, index = given[0]
    if index.meta["val"].dtype is torch.bool:
        return None
    return low.rw.emit(aten.index.Tensor, low.around(source, place), [None, index])


def _norm(low: LowRank, node: Any) -> Value | None:
    """Norms over the last axes."""
    source, normalized, *rest = node.args
    if len(normalized) + 1 > low.most:
        return None
    lead = low.shape(source)[: len(low.shape(source)) - len(normalized)]
    x = low.view(source, [math.prod(lead), *normalized])
    return low.rw.emit(node.target, x, normalized, *rest, **node.kwargs)


def _sides_along(position: int) -> Rule:
    """As ``_along``, for operators of several tensors that differ in size along that axis only."""

    def rule(low: LowRank, node: Any) -> Value | None:
        source = node.args[0]
        dim = axis(argument(node, position, "dim", 0), len(low.shape(source)))
        rest = (*low.shape(source)[:dim], *low.shape(source)[dim + 1 :])
        stand_ins: dict[fx.Node, fx.Node] = {}
        for operand in node.all_input_nodes:
            sizes = low.shape(operand)
            if sizes == rest:  # select_scatter writes a tensor without the axis
                sides = [math.prod(sizes[:dim]), math.prod(sizes[dim:])]
                stand_ins[operand] = low.view(operand, sides)
            elif (*sizes[:dim], *sizes[dim + 1 :]) == rest:
                stand_ins[operand] = low.around(operand, dim)
            elif sizes:
                return None
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: stand_ins.get(n, n))
        return _along_the_second(low, node.target, args, kwargs, position)

    return rule


def _pad(low: LowRank, node: Any) -> Value | None:
    """Axes that are not padded merge with their neighbours."""
    source, widths, *rest = node.args
    sizes = low.shape(source)
    padded = {len(sizes) - 1 - i for i in range(len(widths) // 2) if any(widths[2 * i : 2 * i + 2])}
    x, now = source, list(sizes)
    for place in sorted(padded):
        i = 2 * (len(sizes) - 1 - place)
        view = [math.prod(now[:place]), now[place], math.prod(now[place + 1 :])]
        x = low.rw.emit(node.target, low.view(x, view), [0, 0, *widths[i : i + 2]], *rest)
        now[place] += sum(widths[i : i + 2])
    return x


def _repeat(low: LowRank, node: Any) -> Value:
    source, repeats = node.args
    rank = max(len(repeats), len(low.shape(source)))
    sizes = [1] * (rank - len(low.shape(source))) + list(low.shape(source))
    repeats = [1] * (rank - len(repeats)) + list(repeats)
    pairs = [pair for size in sizes for pair in (1, size)]
    wanted = [pair for count, size in zip(repeats, sizes, strict=True) for pair in (count, size)]
    return low.expanded(source, pairs, wanted)


def _embedding(low: LowRank, node: Any) -> Value:
    table, indices, *rest = node.args
    flat = low.view(indices, [math.prod(low.shape(indices))])
    return low.rw.emit(node.target, table, flat, *rest, **node.kwargs)


def _group_norm(low: LowRank, node: Any) -> Value:
    source, *rest = node.args
    batch, channels, *spatial = low.shape(source)
    x = low.view(source, [batch, channels, math.prod(spatial)])
    return low.rw.emit(node.target, x, *rest, **node.kwargs)


_RULES: dict[Any, Rule] = {
    **dict.fromkeys(
        (
            aten.reshape.default,
            aten.view.default,
            aten.unsqueeze.default,
            aten.squeeze.default,
            aten.squeeze.dim,
            aten.squeeze.dims,
            aten.clone.default,
        ),
        _same_elements,
    ),
    **dict.fromkeys(
        (
            aten.sum.dim_IntList,
            aten.mean.dim,
            aten.amax.default,
            aten.amin.default,
            aten.any.dims,
            aten.all.dims,
            aten.var.correction,
            aten.std.correction,
            aten.logsumexp.default,
            *_OF_ONE_AXIS,
        ),
        _reduce,
    ),
    aten.permute.default: _permute,
    aten.expand.default: _expand,
    aten.select.int: _along(1),
    aten.slice.Tensor: _along(1),
    aten.index_select.default: _along(1),
    aten.unbind.int: _along(1),
    aten.softmax.int: _along(1),
    aten._softmax.default: _along(1),
    aten.log_softmax.int: _along(1),
    aten.cumsum.default: _along(1),
    aten.cumprod.default: _along(1),
    aten.logcumsumexp.default: _along(1),
    aten.max.dim: _along(1),
    aten.min.dim: _along(1),
    aten.sort.default: _along(1, -1),
    aten.glu.default: _along(1, -1),
    aten.split.Tensor: _along(2),
    aten.split_with_sizes.default: _along(2),
    aten.topk.default: _along(2, -1),
    aten.cat.default: _concat,
    aten.stack.default: _concat,
    aten.flip.default: _flip,
    aten.index.Tensor: _index,
    aten.gather.default: _sides_along(1),
    aten.scatter.src: _sides_along(1),
    aten.scatter.value: _sides_along(1),
    aten.scatter_add.default: _sides_along(1),
    aten.slice_scatter.default: _sides_along(2),
    aten.select_scatter.default: _sides_along(2),
    aten.constant_pad_nd.default: _pad,
    aten.pad.default: _pad,
    aten.repeat.default: _repeat,
    aten.embedding.default: _embedding,
    aten.group_norm.default: _group_norm,
    aten.linear.default: products.linear,
    aten.layer_norm.default: _norm,
    aten.rms_norm.default: _norm,
    aten.matmul.default: products.matmul,
    aten.scaled_dot_product_attention.default: products.attention,
    aten.einsum.default: products.einsum,
}
