"""The scale of an attention, folded into the projection of its queries where it can be."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from frontend.ops import rms_norm
from passes.patterns.nodes import aten, is_call, is_static, is_tensor, replaced, shape
from passes.patterns.operators import MOVES, PARTS
from passes.rewriter import Rewriter

# Operators whose result is k times as large where their first operand is.
_CARRY = (
    *MOVES,
    *PARTS,
    operator.getitem,
    aten.slice.Tensor,
    aten.select.int,
    aten.expand.default,
    aten.neg.default,
)
# The same where all of their tensors are.
_CARRY_TOGETHER = (aten.add.Tensor, aten.sub.Tensor, aten.cat.default, aten.stack.default)


def scaled_scores(
    rw: Rewriter, query: fx.Node, key: fx.Node, scale: float
) -> tuple[fx.Node, fx.Node]:
    """Queries and keys whose products are scaled.

    The factor goes into the weights of the linear or the norm that the queries come from, also
    through a rotation by positions, or else of those that the keys come from. Where neither has
    such weights it goes into the tables of a rotation, and without one to the smaller of the two:
    where heads share keys, those are fewer. Raw weights are not touched: ``mul`` on the weight is
    emitted and folded with the constants.
    """
    if scale == 1.0:
        return query, key
    projected = _in_projection(rw, query, scale)
    if projected is not None:
        return projected, key
    for has_weights in (_has_own_weights, _has_table):
        for end in (query, key):
            if sources := _sources(rw, end, has_weights):
                larger = {source: _scaled(rw, source, scale) for source in sources}
                return larger.get(query, query), larger.get(key, key)
    static = is_static(query) and is_static(key)
    if static and math.prod(shape(key)) < math.prod(shape(query)):
        return query, rw.emit(aten.mul.Tensor, key, scale)
    return rw.emit(aten.mul.Tensor, query, scale), key


def _in_projection(rw: Rewriter, query: fx.Node, scale: float) -> fx.Node | None:
    """The queries of a scaled linear, ``None`` where they come from none that can be scaled."""
    chain = _moves_to_linear(rw, query)
    if chain is None:
        return None
    linear, moves = chain
    rows = _rows(linear, moves)
    if rows is None:
        return None
    x, weight, *bias = linear.args
    outputs = shape(linear)[-1]
    factor: Any = scale
    with rw.at(linear):
        by_row: Any = scale
        if len(rows) < outputs:
            factors = torch.ones(outputs)
            factors[rows] = scale
            factor = rw.constant(f"{linear.name}_query_scale", factors)
            by_row = rw.emit(aten.unsqueeze.default, factor, 1)
        scaled = [rw.emit(aten.mul.Tensor, weight, by_row)]
        if bias and bias[0] is not None:
            scaled.append(rw.emit(aten.mul.Tensor, bias[0], factor))
        projected = rw.emit(aten.linear.default, x, *scaled)
        rw.replace(linear, projected, counted=False)
    return projected if query is linear else query


def _moves_to_linear(rw: Rewriter, query: fx.Node) -> tuple[fx.Node, list[fx.Node]] | None:
    """The linear behind ``query`` and the operators between them, if nobody else reads them."""
    if sum(_reads(user, query) for user in query.users) != 1:
        return None
    moves: list[fx.Node] = []
    node: Any = query
    while is_tensor(node) or is_call(node, *PARTS):
        if is_call(node, aten.linear.default):
            constant = all(rw.is_constant(n) for n in node.args[1:] if isinstance(n, fx.Node))
            if not constant or not is_static(query) or len(node.users) != 1:
                return None
            return node, moves[::-1]
        if is_call(node, *PARTS):
            # Parts do not overlap; each must be read once, as a part.
            parts = [user.args[1] for user in node.users if is_call(user, operator.getitem)]
            if len(set(parts)) != len(node.users):
                return None
        elif not is_call(node, *MOVES, operator.getitem) or len(node.users) != 1:
            return None
        moves.append(node)
        node = node.args[0]
    return None


def _reads(user: fx.Node, node: fx.Node) -> int:
    """How many arguments of ``user`` are ``node``; queries may be keys as well."""
    found: list[fx.Node] = []
    fx.map_arg((user.args, user.kwargs), found.append)
    return found.count(node)


def _rows(linear: fx.Node, moves: list[fx.Node]) -> list[int] | None:
    """Rows of the weight that reach the end of ``moves``: run them on row numbers.

    ``None`` if a part of a row's results goes elsewhere, as where tokens are split.
    """
    numbers: Any = torch.arange(shape(linear)[-1], dtype=torch.int32).expand(shape(linear))
    tokens = math.prod(shape(linear)[:-1])
    for move in moves:
        assert callable(move.target)  # it is a call
        numbers = move.target(numbers, *move.args[1:], **move.kwargs)
    rows, counts = torch.unique(numbers, return_counts=True)
    return rows.tolist() if bool((counts == tokens).all()) else None


def _sources(
    rw: Rewriter, end: fx.Node, has_weights: Callable[[Rewriter, fx.Node], bool]
) -> list[fx.Node]:
    """The operators with weights that ``end`` is proportional to, and that nothing else reads.

    Between them may be anything linear without constants to add, as a rotation by positions. Empty
    where there is no such set of operators.
    """
    if sum(_reads(user, end) for user in end.users) != 1:
        return []
    between: dict[fx.Node, None] = {}
    sources: dict[fx.Node, None] = {}
    pending = [end]
    while pending:
        node = pending.pop()
        if node in between or node in sources:
            continue
        carried = _carried(rw, node)
        if has_weights(rw, node):
            sources[node] = None
        elif carried:
            between[node] = None
            pending.extend(carried)
        else:
            return []
    region = between.keys() | sources.keys()
    closed = all(user in region for node in region - {end} for user in node.users)
    products = [node for node in between if is_call(node, aten.mul.Tensor)]
    squares = any(region.issuperset(node.all_input_nodes) for node in products)
    # One source may be in front of another, which would be scaled twice.
    chained = any(region & set(source.all_input_nodes) for source in sources)
    return list(sources) if closed and not squares and not chained else []


def _carried(rw: Rewriter, node: fx.Node) -> Sequence[fx.Node]:
    """The operands that ``node`` is proportional to, together; none if it is to no one."""
    if is_call(node, *_CARRY):
        return node.all_input_nodes[:1]
    if is_call(node, *_CARRY_TOGETHER):
        tensors = [x for x in node.all_input_nodes if is_tensor(x)]
        numbers = [x for x in node.args[:2] if isinstance(x, int | float)]
        joins = is_call(node, aten.cat.default, aten.stack.default)
        return tensors if joins or not numbers else ()
    if is_call(node, aten.mul.Tensor):
        # The other is a table of positions.
        whole = [x for x in node.all_input_nodes if is_tensor(x) and shape(x) == shape(node)]
        return [x for x in whole if not rw.is_constant(x)][:1]
    return ()


def _has_own_weights(rw: Rewriter, node: fx.Node) -> bool:
    """True for a linear or a norm with constant weights, a linear whose weight no other uses."""
    if not is_call(node, aten.linear.default, aten.layer_norm.default, rms_norm):
        return False
    weights = _weights(node)
    if not weights or not all(map(rw.is_constant, weights)):
        return False
    return not is_call(node, aten.linear.default) or len(weights[0].users) == 1


def _has_table(rw: Rewriter, node: fx.Node) -> bool:
    """True for a product with a constant that holds for several heads or entries."""
    if not is_call(node, aten.mul.Tensor) or not _weights(node):
        return False
    (table,) = _weights(node)
    return rw.is_constant(table) and is_static(node) and _elements(table) < _elements(node)


def _elements(node: fx.Node) -> int:
    return math.prod(shape(node))


def _weights(node: fx.Node) -> list[fx.Node]:
    """Weight and bias, or what a product repeats; none for a norm without a weight."""
    if is_call(node, aten.mul.Tensor):
        tables = [x for x in node.args if isinstance(x, fx.Node) and shape(x) != shape(node)]
        return tables if len(tables) == 1 and len(node.all_input_nodes) > 1 else []
    first = 1 if is_call(node, aten.linear.default) else 2
    weight, *bias = [*node.args[first : first + 2], None][:2]
    if not isinstance(weight, fx.Node):
        return []
    return [weight, *(b for b in bias if isinstance(b, fx.Node))]


def _scaled(rw: Rewriter, source: fx.Node, scale: float) -> fx.Node:
    """An operator whose result is ``scale`` times as large, in the place of ``source``."""
    with rw.at(source):
        larger = {w: rw.emit(aten.mul.Tensor, w, scale) for w in _weights(source)}
        args, kwargs = replaced(source, larger)
        scaled = rw.emit(source.target, *args, **kwargs)
        rw.replace(source, scaled, counted=False)
    return scaled
