"""The scale of an attention, folded into the projection of its queries where it can be."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx

from passes.patterns.nodes import aten, is_call, is_static, is_tensor, shape
from passes.patterns.operators import MOVES, PARTS
from passes.rewriter import Rewriter


def scaled_scores(
    rw: Rewriter, query: fx.Node, key: fx.Node, scale: float
) -> tuple[fx.Node, fx.Node]:
    """Queries and keys whose products are scaled.

    The factor goes into the weights of the linear that the queries come from, if any, and else to
    the smaller of the two: where heads share keys, those are fewer. Raw weights are not touched:
    ``mul`` on the weight is emitted and folded with the constants.
    """
    if scale == 1.0:
        return query, key
    projected = _in_projection(rw, query, scale)
    if projected is not None:
        return projected, key
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
