"""Indices that depend on data, where the size of what they take does not.

``x[:, i]``, ``x[i : i + 4]`` and ``x.narrow(1, i, 4)`` of a number ``i`` in a tensor, and writing
there: torch reads the number, which no export can. While it records, they are gathers and writes
at positions that stay a tensor. As in eager mode, negative positions count from the end; positions
beyond the end, which eager mode refuses or cuts off, are assumed not to occur.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from frontend.branches.ask import calling_line, wrapped
from frontend.branches.data_number import DataNumber
from frontend.branches.state import BranchError
from frontend.branches.trace import Trace

aten = torch.ops.aten
# These leave the value of a tensor of one element as it is.
_SAME_VALUE = (aten.reshape.default, aten.view.default, aten.clone.default, aten.alias.default)
Original = Callable[..., Any]
_STEPS = {aten.add.Tensor: operator.add, aten.sub.Tensor: operator.sub}


@contextmanager
def gathering(trace: Trace) -> Iterator[None]:
    """Inside, such indices gather and write; all others are torch's.

    Raises:
        BranchError: at the end, when something was written to what such an index has taken: in
            eager mode that is a view, here a copy.
    """
    copies: list[_Copy] = []
    functions = (
        (Tensor, "__getitem__", _getitem),
        (Tensor, "__setitem__", _setitem),
        (Tensor, "narrow", _narrow),
        (torch, "narrow", _narrow),
    )
    with wrapped(functions, trace, copies):
        yield
    for copy in copies:
        if copy.value._version != copy.version:
            raise BranchError(
                "what an index that depends on data takes is written in place",
                source=copy.line,
                expected="x[i] = value, or x[i] += value",
                hint="assign through the index, so that the write reaches the tensor itself",
            )


@dataclass(frozen=True)
class _Copy:
    """What was taken where torch would give a view, and its version then."""

    value: Tensor
    version: int
    line: str

    @staticmethod
    def of(value: Tensor) -> _Copy:
        return _Copy(value, value._version, calling_line())


@dataclass(frozen=True)
class _Place:
    """An axis of what the other indices leave, and the positions taken of it.

    Attributes:
        axis: its number.
        positions: integers, shape (count,).
        keeps: whether the axis stays, as after a slice.
    """

    axis: int
    positions: Tensor
    keeps: bool


def _getitem(original: Original, trace: Trace, copies: list[_Copy]) -> Original:
    def getitem(input: Tensor, index: object) -> Tensor:
        found = _places(input, index, trace)
        if found is None:
            return original(input, index)
        rest, places = found
        value = original(input, rest)
        for place in reversed(places):
            value = original(value, (*_all(place.axis), place.positions))
            if not place.keeps:
                value = value.squeeze(place.axis)
        copies.append(_Copy.of(value))
        return value

    return getitem


def _setitem(original: Original, trace: Trace, copies: list[_Copy]) -> Original:
    def setitem(input: Tensor, index: object, value: Any) -> object:
        value = value.tensor if isinstance(value, DataNumber) else value
        found = _places(input, index, trace)
        if found is None:
            return original(input, index, value)
        # ``x[i] += 1`` writes to what it took, and then that to where it was.
        copies[:] = [copy for copy in copies if copy.value is not value]
        rest, places = found
        target = input[rest]
        if not isinstance(value, Tensor):
            value = torch.full((), value, dtype=input.dtype)
        value = value.to(input.dtype)
        rows = [place for place in places if place.positions.shape[0] > 1]
        if rows and len(places) > 1:
            return original(input, index, value)
        if rows:
            return original(target, (*_all(rows[0].axis), rows[0].positions), value)
        return target.copy_(_written(target, places, value))

    return setitem


def _written(target: Tensor, places: list[_Place], value: Tensor) -> Tensor:
    """``target`` with ``value`` at one position of each place: a mask, which the ANE can do."""
    mask = torch.ones((), dtype=torch.bool)
    single = {place.axis for place in places}
    taken = {place.axis for place in places if not place.keeps}
    extra = value.ndim - (target.ndim - len(taken))
    value = value.reshape(value.shape[max(extra, 0) :])  # eager mode drops leading axes of one
    value = value.expand(
        [
            1 if axis in single else size
            for axis, size in enumerate(target.shape)
            if axis not in taken
        ]
    )
    for place in places:
        size = target.shape[place.axis]
        hit = torch.arange(size) == place.positions % size
        mask = mask & hit.reshape(-1, *[1] * (target.ndim - 1 - place.axis))
        if not place.keeps:
            value = value.unsqueeze(place.axis)
    return torch.where(mask, value, target)


def _narrow(original: Original, trace: Trace, copies: list[_Copy]) -> Original:
    def narrow(input: Tensor, dim: int, start: object, length: int) -> Tensor:
        first = _scalar(trace, start)
        if first is None:
            return original(input, dim, start, length)
        positions = first.reshape(1) % input.shape[dim] + torch.arange(length)
        copies.append(_Copy.of(input.index_select(dim, positions)))
        return copies[-1].value

    return narrow


def _places(
    input: Tensor, index: object, trace: Trace
) -> tuple[tuple[Any, ...], list[_Place]] | None:
    """The index with all of each data-dependent axis, and those axes; None if there are none."""
    if not trace.is_recording():
        return None
    parts = index if isinstance(index, tuple) else (index,)
    taken = [_positions(trace, part) for part in parts]
    if all(positions is None for positions in taken):
        return None
    used = sum(part is not None and part is not Ellipsis for part in parts)
    rest: list[Any] = []
    places = []
    axis = 0  # of what ``rest`` leaves
    for part, positions in zip(parts, taken, strict=True):
        if positions is not None:
            places.append(_Place(axis, positions, isinstance(part, slice)))
            part = slice(None)
        elif isinstance(part, Tensor | list):
            return None  # several tensors as indices follow rules of their own
        rest.append(part)
        if part is Ellipsis:
            axis += input.ndim - used
        elif part is None or isinstance(part, slice):
            axis += 1
    return tuple(rest), places


def _positions(trace: Trace, part: object) -> Tensor | None:
    if not isinstance(part, slice):
        number = _scalar(trace, part)
        return None if number is None else number.reshape(1)
    first, behind = _scalar(trace, part.start), _scalar(trace, part.stop)
    if first is None or behind is None or part.step not in (None, 1):
        return None
    (base, start), (other, stop) = _affine(trace, first), _affine(trace, behind)
    if base != other or stop < start:
        return None
    return first.reshape(1) + torch.arange(stop - start)


def _scalar(trace: Trace, part: object) -> Tensor | None:
    """An integer of shape () that depends on data, else None."""
    part = part.tensor if isinstance(part, DataNumber) else part
    if not isinstance(part, Tensor) or part.ndim:
        return None
    if part.is_floating_point() or part.dtype is torch.bool:
        return None
    return part if trace.is_recording() and trace.known_value(part) is None else None


def _affine(trace: Trace, number: Tensor) -> tuple[Any, int]:
    """What ``number`` is computed of, and how much is added to it: ``i + 4`` is ``(i, 4)``."""
    node: Any = trace.node_of(number)
    offset = 0
    while isinstance(node, fx.Node):
        if node.target in _SAME_VALUE:
            node = node.args[0]
        elif node.target in _STEPS and isinstance(node.args[1], int) and not node.kwargs:
            offset = _STEPS[node.target](offset, node.args[1])
            node = node.args[0]
        else:
            break
    return node, offset


def _all(count: int) -> tuple[slice, ...]:
    return (slice(None),) * count
