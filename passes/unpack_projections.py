"""A linear layer whose result is only taken apart becomes one linear layer for each part."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from frontend.schema import arguments
from frontend.sizes import Size
from passes.base import Pass
from passes.layout.placement import blocks
from passes.layout.plan import sizes
from passes.patterns.nodes import argument, aten, axis, input_of, is_call, shape
from passes.patterns.operators import MOVES, PARTS, RESHAPES
from passes.patterns.pointwise import is_pointwise_call
from passes.rewriter import Rewriter

_PIECES = (aten.slice.Tensor, aten.select.int)
_JOINS = (aten.cat.default, aten.stack.default)
# What may stand between a part and the place where it is joined with another.
_KEEP = (*_PIECES, *_JOINS, *PARTS, *MOVES, operator.getitem)


@dataclass(frozen=True)
class UnpackProjections(Pass):
    """Writes queries, keys and values that one ``linear`` packs as three of a third each.

    Before: ``linear(x, w)`` of 3C channels, viewed and permuted at will and then cut along its
    channels by ``chunk``, ``split``, ``unbind``, slices or ``select``: ``nn.MultiheadAttention``
    stacks the three in front, vision models permute (B, N, 3, H, D), GPT-NeoX interleaves them by
    head. After: ``linear(x, w[rows])`` for each part, viewed as the part was; ``fold_constants``
    then stores the rows, as views of the weight where they are neighbours. No axis beyond the four
    that the ANE works on is left over, and no result is written twice.

    A linear is no packed projection where something reads its result whole, where tokens are cut
    rather than channels, where parts are joined again or take single channels here and there, as
    rotations do, and where it has one row for each entry of the batch, as a recurrent cell. Parts
    that overlap, and a weight that is used elsewhere, are declined.

    Exact: each element is the same sum.
    """

    name: ClassVar[str] = "unpack_projections"
    by_site: ClassVar[bool] = True

    def apply(self, rw: Rewriter) -> None:
        """Looks at each linear, and again at what it became: parts may be packed themselves."""
        pending = rw.find(aten.linear.default)
        while pending:
            node = pending.pop(0)
            if not rw.is_constant(input_of(node, 1)) or len(shape(input_of(node, 1))) != 2:
                continue
            parts = _parts(rw, node, list(_cuts(node, _stand_in(node))))
            if isinstance(parts, str):
                rw.decline(node, parts)
                continue
            pending.extend(_unpack(rw, node, parts))


@dataclass(frozen=True)
class _Cut:
    """Where the views of a result end.

    Attributes:
        node: the first operator that leaves channels out, or one that is no view.
        seen: a tensor without data whose sizes and strides tell which elements the node holds;
            ``None`` for one that is no view.
    """

    node: fx.Node
    seen: torch.Tensor | None


@dataclass(frozen=True)
class _Axis:
    """An axis of a part, of rows or of channels: its place in the part, size, and stride."""

    place: int
    size: int
    stride: int


@dataclass(frozen=True)
class _Part:
    """What a cut holds of a linear's result (rows, channels).

    Attributes:
        node: the cut.
        rows: its axes of rows, in the order of the part; all rows are there.
        channels: its axes of channels likewise, strides counted in channels.
        first: the first channel.
    """

    node: fx.Node
    rows: tuple[_Axis, ...]
    channels: tuple[_Axis, ...]
    first: int

    @property
    def count(self) -> int:
        return math.prod(a.size for a in self.channels)


def _stand_in(node: fx.Node) -> torch.Tensor:
    """A tensor without data that lies as the result of ``node``; symbols have their hint."""
    return torch.empty([_number(n) for n in shape(node)], device="meta")


def _number(size: Size) -> int:
    return size if isinstance(size, int) else int(size.node.hint)


def _cuts(node: fx.Node, value: torch.Tensor) -> Iterator[_Cut]:
    """The ends of all chains of views that start at ``node``, which lies as ``value``."""
    for user in node.users:
        if is_call(user, *_PIECES):
            yield _Cut(user, _piece(user, value, _where(user)))
        elif is_call(user, *PARTS):
            yield from _of_parts(user, value, _where(user))
        elif is_call(user, aten.permute.default, *RESHAPES):
            seen = _viewed(user, value)
            if seen is None:
                yield from _behind_copy(user, value)
            else:
                yield from _cuts(user, seen)
        else:
            yield _Cut(user, None)


def _where(node: fx.Node) -> int:
    return axis(argument(node, "dim"), len(shape(input_of(node))))


def _viewed(node: fx.Node, value: torch.Tensor) -> torch.Tensor | None:
    """``node`` applied to a stand-in of its input; ``None`` if it would copy."""
    if is_call(node, aten.permute.default):
        return value.permute(argument(node, "dims"))
    wanted = [_number(n) for n in shape(node)]
    seen = value.reshape(wanted)
    shares = seen.untyped_storage()._cdata == value.untyped_storage()._cdata
    return seen if shares else None


def _behind_copy(reshape: fx.Node, value: torch.Tensor) -> Iterator[_Cut]:
    """Cuts behind a reshape that copies, along an axis that it leaves alone: they pass it."""
    pairs = blocks(sizes(input_of(reshape)), sizes(reshape)) or []
    alone = {new[0]: old[0] for old, new in pairs if len(old) == len(new) == 1}
    for user in reshape.users:
        is_piece = is_call(user, *_PIECES, *PARTS)
        place = alone.get(_where(user)) if is_piece else None
        if place is None:
            yield _Cut(reshape, None)
        elif is_call(user, *_PIECES):
            yield _Cut(user, _piece(user, value, place))
        else:
            yield from _of_parts(user, value, place)


def _piece(node: fx.Node, value: torch.Tensor, place: int) -> torch.Tensor | None:
    """A slice or a selection of a stand-in along ``place``; the axis stays, if of size one."""
    size = value.shape[place]
    if is_call(node, aten.select.int):
        index = argument(node, "index")
        return value.narrow(place, index % size, 1) if isinstance(index, int) else None
    bounds = (argument(node, "start"), argument(node, "end"), argument(node, "step"))
    if not all(b is None or isinstance(b, int) for b in bounds):
        return None
    start, stop, step = slice(*bounds).indices(size)
    return torch.ops.aten.slice.Tensor(value, place, start, stop, step)


def _of_parts(node: fx.Node, value: torch.Tensor, place: int) -> Iterator[_Cut]:
    """The parts of a split or of ``unbind`` that are used; the axis stays, if of size one."""
    unbind = node.target is aten.unbind.int
    lengths = [1 if unbind else _number(part.shape[_where(node)]) for part in node.meta["val"]]
    for part in node.users:
        if not is_call(part, operator.getitem) or not isinstance(part.args[1], int):
            yield _Cut(part, None)
            continue
        index = part.args[1] % len(lengths)
        yield _Cut(part, value.narrow(place, sum(lengths[:index]), lengths[index]))


def _parts(rw: Rewriter, node: fx.Node, cuts: list[_Cut]) -> list[_Part] | str:
    """What each cut holds, or why the linear stays; nothing where it is no packed projection."""
    channels = int(shape(node)[-1])
    rows = math.prod(_number(n) for n in shape(node)[:-1])
    found = [_part(cut, channels, rows) for cut in cuts]
    parts = [part for part in found if part is not None]
    if len(parts) < len(cuts) or any(part.count == channels for part in parts):
        return []  # something reads it whole, or takes tokens of it
    if any(min((a.stride for a in part.channels), default=1) != 1 for part in parts):
        return []  # single channels here and there, as the pairs of a rotation
    if _are_gates(node, parts) or _meet_again(parts):
        return []
    if sum(part.count for part in parts) > channels:
        return "parts of its result overlap, and would be computed twice"
    # Constants are parts of it, of another call of the same layer.
    others = [user for user in input_of(node, 1).users if not rw.is_constant(user)]
    if any(not is_call(user, aten.linear.default) for user in others):
        return "its weight is used elsewhere as well, and would be stored twice"
    if any(_picks(channels, part) is None for part in parts):
        return "the channels of a part are no regular choice of all"
    if sum(not isinstance(n, int) for n in shape(node)) > 1:
        return "its result has more than one dynamic size"
    return parts


def _are_gates(node: fx.Node, parts: list[_Part]) -> bool:
    """True for one row for each entry of the batch, cut as the gates of a recurrent cell are.

    A cell runs once for each step, and would run as many products more.
    """
    cut = [input_of(part.node) for part in parts]
    plainly = all(node in (x, *x.all_input_nodes) for x in cut)
    return len(shape(node)) == 2 and plainly and not is_call(input_of(node), *RESHAPES)


def _meet_again(parts: list[_Part]) -> bool:
    """True if two parts end in one ``cat``, as what a rotation turns and what it leaves do."""
    reached: set[fx.Node] = set()
    for part in parts:
        pending, seen = [part.node], {part.node}
        while pending:
            for user in pending.pop().users:
                if user not in seen and (is_pointwise_call(user) or is_call(user, *_KEEP)):
                    seen.add(user)
                    pending.append(user)
        joined = {node for node in seen if is_call(node, *_JOINS)}
        if joined & reached:
            return True
        reached |= joined
    return False


def _part(cut: _Cut, channels: int, rows: int) -> _Part | None:
    """How a cut holds all rows of some channels; ``None`` if it does not."""
    seen = cut.seen
    if seen is None:
        return None
    along_rows, along_channels = [], []
    for place, (size, stride) in enumerate(zip(seen.shape, seen.stride(), strict=True)):
        if size == 1:
            continue
        if stride % channels == 0:
            along_rows.append(_Axis(place, size, stride // channels))
        else:
            along_channels.append(_Axis(place, size, stride))
    first = seen.storage_offset()
    last = first + sum((a.size - 1) * a.stride for a in along_channels)
    expected = 1
    for row in sorted(along_rows, key=lambda a: a.stride):
        if row.stride != expected:
            return None
        expected *= row.size
    if expected != rows or last >= channels:
        return None
    return _Part(cut.node, tuple(along_rows), tuple(along_channels), int(first))


def _picks(channels: int, part: _Part) -> list[tuple[int, int, int]] | None:
    """(blocks, first block, blocks taken) of each axis of channels, the outermost first.

    ``None`` if the part is no such regular pick.
    """
    picks = []
    whole, first = channels, part.first
    for a in sorted(part.channels, key=lambda a: -a.stride):
        if whole % a.stride or first // a.stride + a.size > whole // a.stride:
            return None
        picks.append((whole // a.stride, first // a.stride, a.size))
        whole, first = a.stride, first % a.stride
    return picks or [(channels, first, 1)]


def _unpack(rw: Rewriter, node: fx.Node, parts: list[_Part]) -> list[fx.Node]:
    """Writes the parts; returns their linears."""
    x, weight, bias = arguments(node).values()
    channels = int(shape(node)[-1])
    found = []
    for part in parts:
        with rw.at(node):
            linear = rw.emit(
                aten.linear.default,
                x,
                _picked(rw, weight, channels, part),
                None if bias is None else _picked(rw, bias, channels, part),
            )
            found.append(linear)
        with rw.at(part.node):
            rw.replace(part.node, _as_part(rw, linear, part))
    return found


def _picked(rw: Rewriter, weight: fx.Node, channels: int, part: _Part) -> fx.Node:
    """The rows of ``weight`` (channels, ...) that a part needs, in the order of the part."""
    picks = _picks(channels, part)
    assert picks is not None
    inputs = list(shape(weight)[1:])
    value = _reshaped(rw, weight, [count for count, _, _ in picks] + inputs)
    for place, (count, first, taken) in enumerate(picks):
        if taken != count:
            value = rw.emit(aten.slice.Tensor, value, place, first, first + taken)
    outermost = sorted(part.channels, key=lambda a: -a.stride)
    order = [outermost.index(a) for a in part.channels]
    if order != sorted(order):
        rest = range(len(order), len(picks) + len(inputs))
        value = rw.emit(aten.permute.default, value, [*order, *rest])
    return _reshaped(rw, value, [part.count, *inputs])


def _as_part(rw: Rewriter, linear: fx.Node, part: _Part) -> fx.Node:
    """A linear's result with the axes of the part that it stands for."""
    outermost = sorted(part.rows, key=lambda a: -a.stride)
    axes = [*outermost, *part.channels]
    value = _reshaped(rw, linear, _sizes(linear, axes, len(outermost)))
    order = [axes.index(a) for a in sorted(axes, key=lambda a: a.place)]
    if order != sorted(order):
        value = rw.emit(aten.permute.default, value, order)
    dynamic = [-1 if not isinstance(n, int) else n for n in shape(part.node)]
    return _reshaped(rw, value, dynamic)


def _sizes(linear: fx.Node, axes: list[_Axis], rows: int) -> list[int]:
    """Sizes to reshape to; a dynamic one, of which there is one at most, is left open."""
    lead = shape(linear)[:-1]
    found = [a.size for a in axes]
    dynamic = [_number(n) for n in lead if not isinstance(n, int)]
    if dynamic:
        found[found[:rows].index(dynamic[0])] = -1
    return found


def _reshaped(rw: Rewriter, x: fx.Node, wanted: list[int]) -> fx.Node:
    return x if list(shape(x)) == wanted else rw.emit(aten.reshape.default, x, wanted)
