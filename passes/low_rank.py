"""Tensors of many axes, each held as one of few axes with the same elements, row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import fx

from passes.match import aten, is_static, shape
from passes.permutation_steps import runs, steps
from passes.rewriter import Rewriter

Value = fx.Node | tuple[fx.Node, ...]


class LowRank:
    """Stand-ins for the tensors of a program.

    A stand-in differs from its tensor by a reshape alone, so any grouping of neighbouring axes
    is one reshape away. ``emit`` calls go to the rewriter's present place.
    """

    def __init__(self, rw: Rewriter, most: int) -> None:
        self.rw = rw
        self.most = most
        self.values: dict[fx.Node, Value] = {}

    def of(self, node: fx.Node) -> fx.Node:
        """The stand-in of ``node``, which is a tensor; any tensor may stand for itself."""
        value = self.values.get(node, node)
        assert isinstance(value, fx.Node)
        return value

    def view(self, node: fx.Node, sizes: Sequence[int]) -> fx.Node:
        """``node``, a tensor or a stand-in, with ``sizes``."""
        low = self.of(node)
        if shape(low) == tuple(sizes):
            return low
        return self.rw.emit(aten.reshape.default, low, list(sizes))

    def permuted(self, node: fx.Node, sizes: Sequence[int], order: Sequence[int]) -> fx.Node:
        """A stand-in of ``node``, whose axes are ``sizes``, permuted by ``order``."""
        low = self.of(node)
        for view, moves in steps(sizes, order, self.most):
            low = self.rw.emit(aten.permute.default, self.view(low, view), moves)
        return low

    def expanded(self, node: fx.Node, sizes: Sequence[int], wanted: Sequence[int]) -> fx.Node:
        """A stand-in of ``node``, whose axes are ``sizes``, with axes of one repeated."""
        sizes = [1] * (len(wanted) - len(sizes)) + list(sizes)
        groups = [
            [places[i] for i in run]
            for places in [[axis for axis, size in enumerate(wanted) if size != 1]]
            for run in runs([sizes[axis] == wanted[axis] for axis in places])
        ]
        if len(groups) <= self.most:
            start, end = ([math.prod(s[a] for a in g) for g in groups] for s in (sizes, wanted))
            low = self.view(node, start)
            return low if start == end else self.rw.emit(aten.expand.default, low, end)
        low = self.of(node)
        for group in groups:
            if sizes[group[0]] == wanted[group[0]]:
                continue
            before, after = math.prod(sizes[: group[0]]), math.prod(sizes[group[-1] + 1 :])
            count = math.prod(wanted[axis] for axis in group)
            narrow = self.view(low, [before, 1, after])
            low = self.rw.emit(aten.expand.default, narrow, [before, count, after])
            for axis in group:
                sizes[axis] = wanted[axis]
        return low

    def around(self, node: fx.Node, axis: int) -> fx.Node:
        """``node`` with three axes: what is before ``axis``, the axis, what is behind it."""
        sizes = shape(node)
        return self.view(node, [math.prod(sizes[:axis]), sizes[axis], math.prod(sizes[axis + 1 :])])

    def exceeds(self, value: Any) -> bool:
        """Whether ``value`` is a tensor of more axes than allowed."""
        return getattr(value, "ndim", 0) > self.most

    def is_known(self, node: fx.Node) -> bool:
        """Whether the sizes of ``node`` and of its operands are numbers."""
        tensors = [n for n in (node, *node.all_input_nodes) if hasattr(n.meta.get("val"), "shape")]
        return all(is_static(tensor) for tensor in tensors)
