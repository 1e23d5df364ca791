"""Projections of one value to heads of one width become one projection."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import fx

from passes.base import Pass
from passes.patterns.nodes import argument, aten, dtype, is_call, is_static, only_user, shape
from passes.rewriter import Rewriter

# Axes of a view to heads: (batch, token, head, width).
_TOKENS, _HEADS, _WIDTH = 1, 2, 3
_HEADS_FIRST = [0, _HEADS, _TOKENS, _WIDTH]


@dataclass(frozen=True)
class JoinHeads(Pass):
    """Computes queries, keys and values by one ``linear`` where all three read the same.

    Before: ``linear(x, w_i).reshape(batch, tokens, heads_i, width)`` for several ``w_i``; after:
    one ``linear`` with the rows of all, one reshape to all heads, one permutation to (batch, heads,
    tokens, width), and a split of the heads. Exact; rows keep their order of summation.

    Where one of them has a bias, the others get zeros.
    """

    name: ClassVar[str] = "join_heads"
    by_site: ClassVar[bool] = True

    def apply(self, rw: Rewriter) -> None:
        """Joins all projections of each value whose heads are equally wide."""
        groups: dict[tuple[fx.Node, int, int], list[fx.Node]] = {}
        for node in rw.find(aten.linear.default):
            sizes = _heads_of(rw, node)
            if sizes is not None:
                key = (cast(fx.Node, node.args[0]), sizes[_TOKENS], sizes[_WIDTH])
                groups.setdefault(key, []).append(node)
        for found in groups.values():
            if len(found) > 1:
                _join(rw, found)


def _heads_of(rw: Rewriter, node: fx.Node) -> tuple[int, ...] | None:
    """(batch, token, head, width) of what a projection is viewed as, if it is by a reshape."""
    view = only_user(node)
    if view is None or not is_call(view, aten.reshape.default) or not is_static(view):
        return None
    sizes, given = shape(view), shape(node)
    if len(sizes) != _WIDTH + 1 or not rw.is_constant(cast(fx.Node, node.args[1])):
        return None
    if len(given) == _HEADS + 1 and given[_TOKENS] == sizes[_HEADS] == 1 and sizes[0] == given[0]:
        return (sizes[0], 1, sizes[1], sizes[_WIDTH])  # one token: heads stand first already
    return sizes if sizes[:_HEADS] == given[:-1] else None


def _join(rw: Rewriter, found: Sequence[fx.Node]) -> None:
    views = [cast(fx.Node, only_user(node)) for node in found]
    sizes = [cast("tuple[int, ...]", _heads_of(rw, node)) for node in found]
    heads = [size[_HEADS] for size in sizes]
    with rw.at(found[0]):
        weight = rw.emit(aten.cat.default, [node.args[1] for node in found], 0)
        linear = rw.emit(aten.linear.default, found[0].args[0], weight, _bias(rw, found))
        whole = [*sizes[0][:_HEADS], sum(heads), sizes[0][_WIDTH]]
        viewed = rw.emit(aten.reshape.default, linear, whole)
        first = rw.emit(aten.permute.default, viewed, _HEADS_FIRST)
        split = rw.emit(aten.split_with_sizes.default, first, heads, 1)
        for index, view in enumerate(views):
            part = rw.emit(operator.getitem, split, index)
            back = rw.emit(aten.permute.default, part, _HEADS_FIRST)
            same = shape(back) == shape(view)
            rw.replace(view, back if same else part)


def _bias(rw: Rewriter, found: Sequence[fx.Node]) -> fx.Node | None:
    given = [argument(node, "bias") for node in found]
    if all(bias is None for bias in given):
        return None
    return rw.emit(
        aten.cat.default,
        [
            rw.constant("no_bias", torch.zeros(shape(node)[-1], dtype=dtype(node)))
            if bias is None
            else bias
            for node, bias in zip(found, given, strict=True)
        ],
        0,
    )
