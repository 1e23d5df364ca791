"""Tensors of many axes, each held as one of few axes with the same elements, row by row."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import torch
from torch import fx

from frontend.sizes import Size
from passes.limit_rank.permutation_steps import runs, steps
from passes.patterns.nodes import aten, shape
from passes.rewriter import Rewriter

Value = fx.Node | tuple[fx.Node, ...]
# Each stands for one size that is not known: no size of a model is a multiple of them, so what they
# multiply can be told from what they do not.
_PRIMES = (1_000_000_007, 1_000_000_009, 1_000_000_021, 1_000_000_033)


class UnknownSizeError(Exception):
    """A view would have two sizes that are not known, or one that nothing tells."""


class StandIns:
    """Stand-ins for the tensors of a program.

    A stand-in differs from its tensor by a reshape alone, so any grouping of neighbouring axes
    is one reshape away. ``emit`` calls go to the rewriter's present place.
    """

    def __init__(self, rw: Rewriter, max_rank: int) -> None:
        self.rw = rw
        self.max_rank = max_rank
        self.values: dict[fx.Node, Value] = {}
        self._primes: dict[Hashable, int] = {}  # by symbol

    def of(self, node: fx.Node) -> fx.Node:
        """The stand-in of ``node``, which is a tensor; any tensor may stand for itself."""
        value = self.values.get(node, node)
        assert isinstance(value, fx.Node)
        return value

    def view(self, node: fx.Node, sizes: Sequence[int]) -> fx.Node:
        """``node``, a tensor or a stand-in, with ``sizes``."""
        low = self.of(node)
        if self.shape(low) == tuple(sizes):
            return low
        spelled = [-1 if self._is_unknown(size) else size for size in sizes]
        if spelled.count(-1) > 1:
            raise UnknownSizeError("two axes of a view would have sizes that are not known")
        return self.rw.emit(aten.reshape.default, low, spelled)

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Sizes of ``node``; one that is a multiple of an unknown size has a prime in its place."""
        return tuple(self._number(size) for size in shape(node))

    def _number(self, size: Size) -> int:
        if isinstance(size, int):
            return size
        factor, symbol = _monomial(size) or (0, None)
        if symbol not in self._primes:
            if factor == 0 or len(self._primes) == len(_PRIMES):
                raise UnknownSizeError(f"one of its axes has size {size}")
            self._primes[symbol] = _PRIMES[len(self._primes)]
        return factor * self._primes[symbol]

    def _is_unknown(self, size: int) -> bool:
        return any(size % prime == 0 for prime in self._primes.values()) and size != 0

    def permuted(self, node: fx.Node, sizes: Sequence[int], order: Sequence[int]) -> fx.Node:
        """A stand-in of ``node``, whose axes are ``sizes``, permuted by ``order``."""
        low = self.of(node)
        for view, moves in steps(sizes, order, self.max_rank):
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
        if len(groups) <= self.max_rank:
            start, end = ([math.prod(s[a] for a in g) for g in groups] for s in (sizes, wanted))
            low = self.view(node, start)
            return low if start == end else self._expand(low, start, end)
        low = self.of(node)
        for group in groups:
            if sizes[group[0]] == wanted[group[0]]:
                continue
            before, after = math.prod(sizes[: group[0]]), math.prod(sizes[group[-1] + 1 :])
            count = math.prod(wanted[axis] for axis in group)
            narrow = self.view(low, [before, 1, after])
            low = self._expand(narrow, [before, 1, after], [before, count, after])
            for axis in group:
                sizes[axis] = wanted[axis]
        return low

    def around(self, node: fx.Node, axis: int) -> fx.Node:
        """``node`` with three axes: what is before ``axis``, the axis, what is behind it."""
        sizes = self.shape(node)
        return self.view(node, [math.prod(sizes[:axis]), sizes[axis], math.prod(sizes[axis + 1 :])])

    def exceeds(self, value: object) -> bool:
        """Whether ``value`` is a tensor of more axes than allowed."""
        return getattr(value, "ndim", 0) > self.max_rank

    def _expand(self, node: fx.Node, start: Sequence[int], end: Sequence[int]) -> fx.Node:
        wanted = [-1 if old == new else new for old, new in zip(start, end, strict=True)]
        if any(size != -1 and self._is_unknown(size) for size in wanted):
            raise UnknownSizeError("it is repeated along an axis whose size is not known")
        return self.rw.emit(aten.expand.default, node, wanted)


def _monomial(size: torch.SymInt) -> tuple[int, Hashable] | None:
    """``(factor, symbol)`` of a symbolic size such as ``64 * batch``; None for other ones."""
    factor, rest = size.node.expr.as_coeff_Mul()
    return (int(factor), rest) if rest.is_Symbol and factor == int(factor) else None
