"""How each operator runs on tensors held with few axes: see ``low_rank``.

A rule takes the stand-ins and the node, emits operators of few axes and returns the stand-in of the
result (a tuple for several results), or None where it has no form.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping

import torch
from torch import fx

from frontend.schema import arguments, replaced
from passes.limit_rank import products
from passes.limit_rank.permutation_steps import runs
from passes.limit_rank.stand_ins import StandIns, Value
from passes.patterns.nodes import (
    Target,
    argument,
    aten,
    axes,
    axis,
    input_of,
    is_call,
    is_tensor,
    permuted_axes,
)
from passes.patterns.operators import (
    LOG_SOFTMAXES,
    PARTS,
    REDUCTIONS,
    REDUCTIONS_OF_ONE_AXIS,
    RESHAPES,
    SOFTMAXES,
)
from passes.patterns.pointwise import is_pointwise_call

Rule = Callable[[StandIns, fx.Node], Value | None]


def rule_for(node: fx.Node) -> Rule | None:
    """The rule of a call, None where there is none."""
    return _pointwise if is_pointwise_call(node) else _RULES.get(node.target)


def _same_elements(low: StandIns, node: fx.Node) -> Value:
    return low.of(input_of(node))


def _permute(low: StandIns, node: fx.Node) -> Value:
    source = input_of(node)
    return low.permuted(source, low.shape(source), permuted_axes(node))


def _expand(low: StandIns, node: fx.Node) -> Value:
    return low.expanded(input_of(node), low.shape(input_of(node)), low.shape(node))


def _pointwise(low: StandIns, node: fx.Node) -> Value:
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
        if len(groups) <= low.max_rank:
            break
    for n in operands:
        view = [math.prod(sizes[n][place] for place in group) for group in groups] or [1]
        stand_ins[n] = low.view(stand_ins.get(n, n), view)
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: stand_ins.get(n, n))
    return _parts(low, low.rw.emit(node.target, *args, **kwargs))


def _reduce(low: StandIns, node: fx.Node) -> Value:
    source = input_of(node)
    sizes = low.shape(source)
    named = axes(node, "dim", len(sizes))
    reduced = set(range(len(sizes)) if named is None else named)
    groups = runs([place in reduced for place in range(len(sizes))])
    if len(groups) <= low.max_rank:
        x = low.view(source, [math.prod(sizes[place] for place in group) for group in groups])
        wanted = [index for index, group in enumerate(groups) if group[0] in reduced]
    else:
        order = [*(p for p in range(len(sizes)) if p not in reduced), *sorted(reduced)]
        count = math.prod(sizes[place] for place in reduced)
        x = low.view(low.permuted(source, sizes, order), [math.prod(sizes) // count, count])
        wanted = [1]
    options = {name: value for name, value in node.kwargs.items() if name not in ("dim", "keepdim")}
    return low.rw.emit(
        node.target, x, wanted[0] if is_call(node, *REDUCTIONS_OF_ONE_AXIS) else wanted, **options
    )


def _along(low: StandIns, node: fx.Node) -> Value:
    """Operators along the one axis that their ``dim`` names."""
    source = input_of(node)
    dim = axis(argument(node, "dim"), len(low.shape(source)))
    (_, *args), kwargs = replaced(node, {"dim": 1})
    return _parts(low, low.rw.emit(node.target, low.around(source, dim), *args, **kwargs))


def _parts(low: StandIns, result: fx.Node) -> Value:
    value = result.meta["val"]
    if not isinstance(value, list | tuple):
        return result
    return tuple(low.rw.emit(operator.getitem, result, i) for i in range(len(value)))


def _concat(low: StandIns, node: fx.Node) -> Value:
    sources, dim = arguments(node).values()
    if node.target is aten.stack.default:
        place = axis(dim, len(low.shape(node)))
        sizes = low.shape(sources[0])
        before, after = math.prod(sizes[:place]), math.prod(sizes[place:])
        parts = [low.view(source, [before, 1, after]) for source in sources]
    else:
        parts = [low.around(source, axis(dim, len(low.shape(source)))) for source in sources]
    return low.rw.emit(aten.cat.default, parts, 1)


def _flip(low: StandIns, node: fx.Node) -> Value:
    source, dims = arguments(node).values()
    sizes, x = low.shape(source), source
    for dim in dims:
        place = axis(dim, len(sizes))
        view = [math.prod(sizes[:place]), sizes[place], math.prod(sizes[place + 1 :])]
        x = low.rw.emit(aten.flip.default, low.view(x, view), [1])
    return x


def _index(low: StandIns, node: fx.Node) -> Value | None:
    source, indices = arguments(node).values()
    given = [(place, index) for place, index in enumerate(indices) if index is not None]
    if len(given) != 1 or given[0][1].meta["val"].ndim + 2 > low.max_rank:
        return None
    place, index = given[0]
    if index.meta["val"].dtype is torch.bool:
        return None
    return low.rw.emit(aten.index.Tensor, low.around(source, place), [None, index])


def _norm(low: StandIns, node: fx.Node) -> Value | None:
    """Norms over the last axes."""
    source, normalized = input_of(node), argument(node, "normalized_shape")
    if len(normalized) + 1 > low.max_rank:
        return None
    lead = low.shape(source)[: len(low.shape(source)) - len(normalized)]
    x = low.view(source, [math.prod(lead), *normalized])
    return low.rw.emit(node.target, x, *node.args[1:], **node.kwargs)


def _sides_along(low: StandIns, node: fx.Node) -> Value | None:
    """As ``_along``, for operators of several tensors that differ in size along that axis only."""
    source = input_of(node)
    dim = axis(argument(node, "dim"), len(low.shape(source)))
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
    args, kwargs = fx.map_arg(replaced(node, {"dim": 1}), lambda n: stand_ins.get(n, n))
    return low.rw.emit(node.target, *args, **kwargs)


def _pad(low: StandIns, node: fx.Node) -> Value | None:
    """Axes that are not padded merge with their neighbours."""
    source, widths = input_of(node), argument(node, "pad")
    rest = node.args[2:]
    sizes = low.shape(source)
    padded = {len(sizes) - 1 - i for i in range(len(widths) // 2) if any(widths[2 * i : 2 * i + 2])}
    x, now = source, list(sizes)
    for place in sorted(padded):
        i = 2 * (len(sizes) - 1 - place)
        view = [math.prod(now[:place]), now[place], math.prod(now[place + 1 :])]
        x = low.rw.emit(node.target, low.view(x, view), [0, 0, *widths[i : i + 2]], *rest)
        now[place] += sum(widths[i : i + 2])
    return x


def _repeat(low: StandIns, node: fx.Node) -> Value:
    source, repeats = arguments(node).values()
    rank = max(len(repeats), len(low.shape(source)))
    sizes = [1] * (rank - len(low.shape(source))) + list(low.shape(source))
    repeats = [1] * (rank - len(repeats)) + list(repeats)
    pairs = [pair for size in sizes for pair in (1, size)]
    wanted = [pair for count, size in zip(repeats, sizes, strict=True) for pair in (count, size)]
    return low.expanded(source, pairs, wanted)


def _embedding(low: StandIns, node: fx.Node) -> Value:
    table, indices = input_of(node), argument(node, "indices")
    flat = low.view(indices, [math.prod(low.shape(indices))])
    return low.rw.emit(node.target, table, flat, *node.args[2:], **node.kwargs)


def _group_norm(low: StandIns, node: fx.Node) -> Value:
    batch, channels, *spatial = low.shape(input_of(node))
    x = low.view(input_of(node), [batch, channels, math.prod(spatial)])
    return low.rw.emit(node.target, x, *node.args[1:], **node.kwargs)


_SCANS = (aten.cumsum.default, aten.cumprod.default, aten.logcumsumexp.default)
_RULES: Mapping[Target, Rule] = {
    **dict.fromkeys((*RESHAPES, aten.view.default), _same_elements),
    **dict.fromkeys(REDUCTIONS, _reduce),
    aten.permute.default: _permute,
    aten.expand.default: _expand,
    **dict.fromkeys((*SOFTMAXES, *LOG_SOFTMAXES, *PARTS, *_SCANS), _along),
    **dict.fromkeys((aten.select.int, aten.slice.Tensor, aten.index_select.default), _along),
    **dict.fromkeys((aten.max.dim, aten.min.dim, aten.sort.default, aten.topk.default), _along),
    aten.glu.default: _along,
    aten.cat.default: _concat,
    aten.stack.default: _concat,
    aten.flip.default: _flip,
    aten.index.Tensor: _index,
    aten.gather.default: _sides_along,
    aten.scatter.src: _sides_along,
    aten.scatter.value: _sides_along,
    aten.scatter_add.default: _sides_along,
    aten.slice_scatter.default: _sides_along,
    aten.select_scatter.default: _sides_along,
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
