"""How each operator runs on tensors held with few axes: see ``low_rank``.

A rule takes the stand-ins and the node, emits operators of few axes and returns the stand-in of the
result (a tuple for several results), or None where it has no form.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from passes.elementwise import ELEMENTWISE
from passes.low_rank import LowRank, Value
from passes.match import argument, aten, axis, is_tensor, shape
from passes.permutation_steps import runs

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
    return low.permuted(source, shape(source), [axis(a, len(order)) for a in order])


def _expand(low: LowRank, node: Any) -> Value:
    return low.expanded(node.args[0], shape(node.args[0]), shape(node))


def _elementwise(low: LowRank, node: fx.Node) -> Value:
    """Neighbouring axes merge where the same operands are broadcast along them."""
    wanted = shape(node)
    used = [place for place, size in enumerate(wanted) if size != 1]
    # A tensor without axes takes part in type promotion as a number does: it stays one.
    operands = [n for n in node.all_input_nodes if is_tensor(n) and shape(n)]
    sizes = {n: [1] * (len(wanted) - len(shape(n))) + list(shape(n)) for n in operands}
    stand_ins: dict[fx.Node, fx.Node] = {}
    for smallest in [None, *sorted(operands, key=lambda n: math.prod(shape(n)))]:
        if smallest is not None:
            stand_ins[smallest] = low.expanded(smallest, shape(smallest), wanted)
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
    sizes = shape(source)
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
        dim = axis(argument(node, position, "dim", default), len(shape(source)))
        args = [low.around(source, dim), *node.args[1:]]
        kwargs = {name: value for name, value in node.kwargs.items() if name != "dim"}
        if position < len(args):
            args[position] = 1
        else:
            kwargs["dim"] = 1
        return _parts(low, low.rw.emit(node.target, *args, **kwargs))

    return rule


def _parts(low: LowRank, result: fx.Node) -> Value:
    value = result.meta["val"]
    if not isinstance(value, list | tuple):
        return result
    return tuple(low.rw.emit(operator.getitem, result, i) for i in range(len(value)))


def _concat(low: LowRank, node: Any) -> Value:
    sources = node.args[0]
    dim = argument(node, 1, "dim", 0)
    if node.target is aten.stack.default:
        place = axis(dim, len(shape(node)))
        sizes = shape(sources[0])
        before, after = math.prod(sizes[:place]), math.prod(sizes[place:])
        parts = [low.view(source, [before, 1, after]) for source in sources]
    else:
        parts = [low.around(source, axis(dim, len(shape(source)))) for source in sources]
    return low.rw.emit(aten.cat.default, parts, 1)


def _flip(low: LowRank, node: Any) -> Value:
    source, dims = node.args
    sizes, x = shape(source), source
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


def _linear(low: LowRank, node: Any) -> Value:
    source, *rest = node.args
    x = low.view(source, [math.prod(shape(source)[:-1]), shape(source)[-1]])
    return low.rw.emit(node.target, x, *rest, **node.kwargs)


def _norm(low: LowRank, node: Any) -> Value | None:
    """Norms over the last axes."""
    source, normalized, *rest = node.args
    if len(normalized) + 1 > low.most:
        return None
    lead = shape(source)[: len(shape(source)) - len(normalized)]
    x = low.view(source, [math.prod(lead), *normalized])
    return low.rw.emit(node.target, x, normalized, *rest, **node.kwargs)


def _matmul(low: LowRank, node: Any) -> Value | None:
    a, b = node.args
    if len(shape(a)) < 2 or len(shape(b)) < 2:
        return None
    batch = list(shape(node)[:-2])
    wide = []
    for side in (a, b):
        own = list(shape(side)[:-2])
        same = math.prod(own) == math.prod(batch)
        whole = side if same else low.expanded(side, shape(side), [*batch, *shape(side)[-2:]])
        wide.append(low.view(whole, [math.prod(batch), *shape(side)[-2:]]))
    return low.rw.emit(aten.matmul.default, *wide)


def _attention(low: LowRank, node: Any) -> Value | None:
    """Leading axes merge to one batch."""
    query, key, value, *rest = node.args
    batch = shape(query)[:-3]
    mask = rest[0] if rest else node.kwargs.get("attn_mask")
    if shape(key)[:-3] != batch or shape(value)[:-3] != batch:
        return None
    if mask is not None and len(shape(mask)) > 2:
        sizes = [*shape(mask)[-3:]]
        if math.prod(shape(mask)[:-3]) != 1:
            mask = low.expanded(mask, shape(mask), [*batch, *sizes])
            mask = low.view(mask, [math.prod(batch), *sizes])
        else:
            mask = low.view(mask, sizes)
    q, k, v = (low.view(n, [math.prod(batch), *shape(n)[-3:]]) for n in (query, key, value))
    kwargs = dict(node.kwargs)
    if rest:
        rest[0] = mask
    elif mask is not None:
        kwargs["attn_mask"] = mask
    return low.rw.emit(node.target, q, k, v, *rest, **kwargs)


def _einsum(low: LowRank, node: Any) -> Value | None:
    """Two operands as one batched product; one operand as a sum and a permutation."""
    equation, operands = node.args[0].replace(" ", ""), list(node.args[1])
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if "." in equation or not arrow or len(operands) > 2:
        return None
    if any(len(set(term)) != len(term) for term in (*terms, out)):
        return None
    size = {
        letter: n
        for term, operand in zip(terms, operands, strict=True)
        for letter, n in zip(term, shape(operand), strict=True)
    }
    # A letter that only one operand has and the result lacks is summed beforehand.
    for place, term in enumerate(terms):
        others = set(out).union(*terms[:place], *terms[place + 1 :])
        kept = "".join(letter for letter in term if letter in others)
        rest = [letter for letter in term if letter not in others]
        order = [term.index(letter) for letter in (*kept, *rest)]
        operands[place] = low.permuted(operands[place], [size[c] for c in term], order)
        if rest:
            view = [math.prod(size[c] for c in letters) for letters in (kept, rest)]
            summed = low.view(operands[place], view)
            operands[place] = low.rw.emit(aten.sum.dim_IntList, summed, [1])
        terms[place] = kept
    if len(operands) == 1:
        (term,) = terms
        return low.permuted(operands[0], [size[c] for c in term], [term.index(c) for c in out])
    a, b = terms
    batch = [c for c in a if c in b and c in out]
    summed_over = [c for c in a if c in b and c not in out]
    rows, columns = ([c for c in term if c not in other] for term, other in ((a, b), (b, a)))
    lhs = _blocks(low, operands[0], a, (batch, rows, summed_over), size)
    rhs = _blocks(low, operands[1], b, (batch, summed_over, columns), size)
    product = low.rw.emit(aten.matmul.default, lhs, rhs)
    have = [*batch, *rows, *columns]
    return low.permuted(product, [size[c] for c in have], [have.index(c) for c in out])


def _blocks(
    low: LowRank, x: fx.Node, term: str, blocks: tuple[list[str], ...], size: dict[str, int]
) -> fx.Node:
    """``x`` with its letters gathered in three axes."""
    order = [term.index(letter) for block in blocks for letter in block]
    moved = low.permuted(x, [size[letter] for letter in term], order)
    return low.view(moved, [math.prod(size[letter] for letter in block) for block in blocks])


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
    aten.sort.default: _along(1, -1),
    aten.glu.default: _along(1, -1),
    aten.split.Tensor: _along(2),
    aten.split_with_sizes.default: _along(2),
    aten.topk.default: _along(2, -1),
    aten.cat.default: _concat,
    aten.stack.default: _concat,
    aten.flip.default: _flip,
    aten.index.Tensor: _index,
    aten.linear.default: _linear,
    aten.layer_norm.default: _norm,
    aten.rms_norm.default: _norm,
    aten.matmul.default: _matmul,
    aten.scaled_dot_product_attention.default: _attention,
    aten.einsum.default: _einsum,
}
