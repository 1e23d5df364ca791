"""Indexing by constants that only slices or broadcasts is written as slices and reshapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from frontend.sizes import Size, expression, same_size
from passes.base import Pass
from passes.patterns.nodes import argument, aten, input_of, is_call, is_static, shape
from passes.patterns.operators import RESHAPES
from passes.rewriter import Rewriter

# A concatenation of this many slices is still cheaper than a gather off the ANE (*assumed*).
_MAX_RUNS = 4


@dataclass(frozen=True)
class _Range:
    """An index tensor that walks ``length`` neighbours from ``start`` along one result axis.

    ``along`` is ``None`` for a single position.
    """

    start: int
    length: int
    along: int | None


@dataclass(frozen=True)
class SimplifyIndex(Pass):
    """Turns gathers with constant, contiguous indices into ``slice``, ``reshape``, ``expand``.

    Before: ``index(mask (B, S), [zeros (B, 1, 1, 1), arange (1, 1, 1, S)])``, as HuggingFace
    builds its masks; after: ``reshape(mask, (B, 1, 1, S))``. A few runs of neighbours, such as
    the two of ``torch.roll`` (Swin's shifted windows), become slices and one ``cat``. Exact.
    Integer index operands are refused by the ANE (*documented*: M4 dispatcher dumps), slices
    are not.
    """

    name: ClassVar[str] = "simplify_index"
    by_site: ClassVar[bool] = True

    def apply(self, rw: Rewriter) -> None:
        """Rewrites ``index.Tensor`` and ``index_select``; declines irregular indices."""
        for node in rw.find(aten.index.Tensor):
            self._index(rw, node, list(argument(node, "indices")))
        for node in rw.find(aten.index_select.default):
            rank, where = len(shape(node)), node.args[1]
            if rank and isinstance(where, int):
                indices = [None] * (where % rank) + [node.args[2]]
                self._index(rw, node, indices)

    def _index(self, rw: Rewriter, node: fx.Node, indices: list[Any]) -> None:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        given = [i for i in indices if i is not None]
        if rw.is_constant(node):
            return  # it will be folded
        if not all(rw.is_constant(i) for i in given):
            self._walk(rw, node, source, indices)
            return
        values = [rw.value(i) for i in given]
        first = next(axis for axis, i in enumerate(indices) if i is not None)
        gap = any(i is None for i in indices[first : first + len(given)])
        is_line = (
            len(values) == 1 and values[0].dim() == 1 and isinstance(shape(source)[first], int)
        )
        movable = is_line or is_static(source)
        if gap or not movable or any(v.dtype is torch.bool for v in values):
            rw.decline(node, "its indices are masks, or skip an axis, or its input is dynamic")
            return
        together = torch.broadcast_tensors(*values)
        ranges = [
            _as_range(value, shape(source)[first + place]) for place, value in enumerate(together)
        ]
        known = [r for r in ranges if r is not None]
        along = [r.along for r in known if r.along is not None]
        runs = _runs(values[0], shape(source)[first]) if is_line and None in ranges else []
        if 1 < len(runs) <= _MAX_RUNS:
            with rw.at(node):
                rw.replace(node, _joined(rw, source, first, runs))
            return
        if None in ranges or along != sorted(set(along)):
            rw.decline(node, "its indices are not neighbours in order; a gather is needed")
            return
        with rw.at(node):
            rw.replace(node, _sliced(rw, source, first, known, tuple(together[0].shape)))

    def _walk(self, rw: Rewriter, node: fx.Node, source: fx.Node, indices: list[Any]) -> None:
        """Whole axes of sizes known at run time only, each walked along one axis of the result."""
        first = next(axis for axis, i in enumerate(indices) if i is not None)
        given = [i for i in indices if i is not None]
        gap = any(i is None for i in indices[first : first + len(given)])
        rank = max(len(shape(index)) for index in given)
        ranges = (
            []
            if gap
            else [
                _walk_of(rw, index, shape(source)[first + place], rank)
                for place, index in enumerate(given)
            ]
        )
        if not ranges or None in ranges:
            rw.decline(node, "its indices depend on an input")
            return
        along = [r.along for r in ranges if r is not None and r.along is not None]
        block = shape(node)[first : first + rank]
        unlaid = [size for axis, size in enumerate(block) if axis not in along]
        if along != sorted(set(along)) or any(expression(size) != 1 for size in unlaid):
            rw.decline(node, "its indices walk axes that are dynamic, out of order or repeated")
            return
        with rw.at(node):
            value = source
            for place, found in reversed(list(enumerate(ranges))):
                assert found is not None
                if found.along is None:
                    value = rw.emit(aten.select.int, value, first + place, found.start)
            for axis in range(rank):
                if axis not in along:
                    value = rw.emit(aten.unsqueeze.default, value, first + axis)
            rw.replace(node, value)


def _walk_of(rw: Rewriter, index: fx.Node, size: Size, rank: int) -> _Range | None:
    """``index`` as a walk over all of an axis of ``size``, or as a single position on it.

    ``along`` is an axis of the ``rank`` ones that the indices have together.
    """
    sizes = shape(index)
    added = rank - len(sizes)
    if rw.is_constant(index):
        value = rw.value(index)
        if not isinstance(size, int) and bool((value < 0).any()):
            return None  # counted from an end that is not known
        found = _as_range(value, size if isinstance(size, int) else 0)
        if found is None or found.along is None:
            return found
        whole = isinstance(size, int) and (found.start, found.length) == (0, size)
        return _Range(0, found.length, found.along + added) if whole else None
    wide = [axis for axis, length in enumerate(sizes) if expression(length) != 1]
    if len(wide) != 1 or not same_size(sizes[wide[0]], size) or not _counts_up(index):
        return None
    return _Range(0, -1, wide[0] + added)


def _counts_up(index: fx.Node) -> bool:
    """``index`` is 0, 1, 2, ... as far as it goes; it has one axis longer than 1."""
    while is_call(index, *RESHAPES):
        index = input_of(index)
    if is_call(index, aten.arange.start_step):
        return (index.args[0], argument(index, "step")) == (0, 1)
    if is_call(index, aten.arange.start):
        return bool(index.args[0] == 0)
    return is_call(index, aten.arange.default)


def _as_range(index: torch.Tensor, size: int) -> _Range | None:
    """``index`` as a range of neighbours, negative positions counted from the end."""
    index = torch.where(index < 0, index + size, index)
    start = int(index.flatten()[0]) if index.numel() else 0
    if bool((index == start).all()):
        return _Range(start, 1, None)
    for axis, length in enumerate(index.shape):
        line = [1] * index.dim()
        line[axis] = length
        walk = (torch.arange(length, dtype=index.dtype) + start).reshape(line)
        if length > 1 and torch.equal(walk.expand_as(index), index):
            return _Range(start, length, axis)
    return None


def _runs(index: torch.Tensor, size: int) -> list[tuple[int, int]]:
    """``index`` (n,) as (start, stop) of runs of neighbours."""
    index = torch.where(index < 0, index + size, index)
    cuts = (torch.nonzero(index.diff() != 1).flatten() + 1).tolist()
    parts = index.tensor_split(cuts)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts if part.numel()]


def _joined(rw: Rewriter, source: fx.Node, where: int, runs: list[tuple[int, int]]) -> fx.Node:
    parts = [rw.emit(aten.slice.Tensor, source, where, start, stop) for start, stop in runs]
    return rw.emit(aten.cat.default, parts, where)


def _sliced(
    rw: Rewriter, source: fx.Node, first: int, ranges: list[_Range], block: tuple[int, ...]
) -> fx.Node:
    """Slices each indexed axis, then lays the slices along their axes of the result."""
    sizes = shape(source)
    value = source
    for place, found in enumerate(ranges):
        axis = first + place
        if (found.start, found.length) != (0, sizes[axis]):
            stop = found.start + found.length
            value = rw.emit(aten.slice.Tensor, value, axis, found.start, stop)
    laid = [1] * len(block)
    for found in ranges:
        if found.along is not None:
            laid[found.along] = found.length
    before, after = list(sizes[:first]), list(sizes[first + len(ranges) :])
    if [*before, *laid, *after] != list(shape(value)):
        value = rw.emit(aten.reshape.default, value, [*before, *laid, *after])
    if list(block) != laid:
        value = rw.emit(aten.expand.default, value, [*before, *block, *after])
    return value
