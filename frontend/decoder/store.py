"""The packed cache while one step runs: layers write their new rows and read their slot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from frontend.decoder.packing import CacheSlot, Packing, joined
from frontend.ops import slice_update

Write = Literal["position", "last", "blend"]
"""``position`` writes the new rows where they belong; ``last`` does so for all layers at once,
behind the last one, and layers see their slot blended with their own new rows; ``blend`` rewrites
the layer's slot with a mask, so that no place depends on data."""

_TOKENS = 2  # the axis of tokens in (layer, head, token, width)


class Places:
    """Where the step's tokens go: made once for all layers of one length.

    Args:
        position: (1,), how many tokens are in the cache already; kept as an attribute.
        tokens: how many the step adds.
        rings: lengths of the slots in which tokens go round.
        slots: where new tokens go, those of keys and of values.
        full: length of a cache that looks full: layers read their rows in the order of the tokens,
            the newest at the end, and rows that were not written yet come first; ``None`` where
            rows are read as they lie.
    """

    def __init__(
        self,
        position: Tensor,
        tokens: int,
        rings: frozenset[int],
        slots: Iterable[CacheSlot] = (),
        full: int | None = None,
    ) -> None:
        self.position = position
        self._tokens = tokens
        self._rings = rings
        self._full = full
        self._slots = tuple(dict.fromkeys(slots))
        self._orders: dict[int, Tensor] = {}
        self._starts: dict[int, Tensor] = {}
        self._turns: dict[int, Tensor] = {}
        self._bounds: dict[CacheSlot, tuple[Tensor, Tensor]] = {}
        self._choices: dict[int, Tensor] = {}
        self._taken: dict[int, Tensor] = {}

    def start(self, length: int) -> Tensor:
        """(1,): the row of the first new token in a slot of ``length``."""
        if length not in self._rings:
            return self.position
        if length not in self._starts:
            self._starts[length] = torch.remainder(self.position, length)
        return self._starts[length]

    @property
    def seen(self) -> Tensor | int:
        """How many tokens the model is told that the cache holds."""
        return self.position if self._full is None else self._full - self._tokens

    def written(self) -> Tensor | None:
        """(length,): which rows of a cache that looks full hold a token."""
        if self._full is None:
            return None
        return torch.arange(self._full) >= self._full - self._tokens - self.position

    def bounds(self, slot: CacheSlot, moving: bool) -> tuple[Tensor, Tensor]:
        """Begin and end of the rows in the packed tensor, (4,) each.

        Those of the new tokens if ``moving``, else those of the whole slot.
        """
        if not moving:
            first, last = _corners(slot, slot.extent.length)
            return torch.tensor(first), torch.tensor(last)
        if slot not in self._bounds:
            self._bounds |= self._moving_bounds(self._slots if slot in self._slots else (slot,))
        return self._bounds[slot]

    def _moving_bounds(self, slots: Sequence[CacheSlot]) -> dict[CacheSlot, tuple[Tensor, Tensor]]:
        """Of all slots at once: one sum of numbers, taken apart, however many layers there are."""
        if len(slots) == 1:  # no sum is shorter
            (slot,) = slots
            first, last = _corners(slot, self._tokens)
            begin = self.start(slot.extent.length) * torch.tensor([0, 0, 1, 0])
            begin = begin + torch.tensor(first) if any(first) else begin
            return {slot: (begin, begin + (torch.tensor(last) - torch.tensor(first)))}
        numbers: list[int] = []
        for slot in slots:
            for corner in _corners(slot, self._tokens):
                numbers += corner
        whole = torch.tensor(numbers)
        for length in dict.fromkeys(slot.extent.length for slot in slots):
            moves = [[0, 0, int(slot.extent.length == length), 0] * 2 for slot in slots]
            whole = whole + self.start(length) * torch.tensor(moves).flatten()
        corners = torch.split(whole, 4)
        return {slot: (corners[2 * at], corners[2 * at + 1]) for at, slot in enumerate(slots)}

    def turned(self, length: int) -> Tensor | int:
        """What to add to a slot's rows 0, 1, ... for the positions of the tokens in them.

        0 where tokens do not go round. In a ring, row ``s`` holds the newest token whose position
        is ``s`` modulo ``length``; a row that was not written yet keeps its number, which is
        ahead of every query.
        """
        if self._full is not None:
            return self._full - length
        if length not in self._rings:
            return 0
        if length not in self._turns:
            newest = self.position + (self._tokens - 1)
            ahead = (newest - torch.arange(length)).clamp(min=0)
            self._turns[length] = torch.div(ahead, length, rounding_mode="floor") * length
        return self._turns[length]

    def ordered(self, rows: Tensor) -> Tensor:
        """A layer's slot (1, head, token, width) in the order in which the layer reads it."""
        if self._full is None:
            return rows
        length = rows.shape[_TOKENS]
        if length not in self._orders:
            after = self.position + self._tokens + torch.arange(length)
            self._orders[length] = torch.remainder(after, length)
        return torch.index_select(rows, _TOKENS, self._orders[length])

    def chosen(self, length: int) -> Tensor:
        """(tokens, length), true where a new token goes."""
        if length not in self._choices:
            rows = self.start(length) + torch.arange(self._tokens)
            if length in self._rings:
                rows = torch.remainder(rows, length)
            self._choices[length] = rows.unsqueeze(1) == torch.arange(length)
        return self._choices[length]

    def taken(self, length: int) -> Tensor:
        """(1, 1, length, 1), true where any new token goes: in this shape no use reshapes it."""
        if length not in self._taken:
            rows, start = torch.arange(length).reshape(1, 1, length, 1), self.start(length)
            if self._tokens == 1:
                self._taken[length] = rows == start
            else:
                self._taken[length] = torch.remainder(rows - start, length) < self._tokens
        return self._taken[length]


def _corners(slot: CacheSlot, rows: int) -> tuple[list[int], list[int]]:
    """Begin and end of the slot's first rows."""
    extent = slot.extent
    return (
        [slot.row, 0, slot.offset, 0],
        [slot.row + slot.rows, extent.heads, slot.offset + rows, extent.width],
    )


class PackedStore:
    """Packed keys or values of all layers, during one step: (row, head, token, width)."""

    def __init__(self, tensor: Tensor, packing: Packing, places: Places, write: Write) -> None:
        self._tensor = tensor
        self._packing = packing
        self._places = places
        self._write = write
        self._rows: dict[CacheSlot, Tensor] = {}  # new, and not yet in the tensor

    def read(self, layer: int) -> Tensor:
        """(1, head, token, width) of one layer."""
        slot = self._packing.slots[layer]
        extent = slot.extent
        found = self._tensor
        for axis, (start, size) in enumerate(
            ((slot.row, 1), (0, extent.heads), (slot.offset, extent.length), (0, extent.width))
        ):
            if size != found.shape[axis]:
                found = found.narrow(axis, start, size)
        return found

    def write(self, layer: int, new: Tensor) -> Tensor:
        """Adds (1, head, new token, width) and returns the layer's slot with it."""
        slot = self._packing.slots[layer]
        is_whole = new.shape[_TOKENS] == slot.extent.length
        if self._write == "last" and not is_whole:
            self._rows[slot] = new
            return self._places.ordered(_blended(self.read(layer), new, self._places))
        moving = self._write == "position" and not is_whole
        if self._write == "blend":
            new = _blended(self.read(layer), new, self._places)
        begin, end = self._places.bounds(slot, moving)
        self._tensor = slice_update(self._tensor, new, begin, end)
        return self._places.ordered(self.read(layer) if moving else new)

    def put(self, layer: int, whole: Tensor) -> None:
        """Replaces the layer's slot."""
        begin, end = self._places.bounds(self._packing.slots[layer], moving=False)
        self._tensor = slice_update(self._tensor, whole, begin, end)

    def written(self) -> Tensor:
        """The tensor with all that was written."""
        at = 0
        slots = sorted(self._rows, key=lambda slot: (slot.offset, slot.row))
        for box in joined(slots):
            rows = [self._rows[slot] for slot in slots[at : at + box.rows]]
            at += box.rows
            begin, end = self._places.bounds(box, moving=True)
            new = torch.cat(rows) if len(rows) > 1 else rows[0]
            self._tensor = slice_update(self._tensor, new, begin, end)
        self._rows = {}
        return self._tensor


def _blended(old: Tensor, new: Tensor, places: Places) -> Tensor:
    """``old`` (1, H, S, D) with the rows of ``new`` (1, H, T, D) at ``places``."""
    length = old.shape[_TOKENS]
    if new.shape[_TOKENS] > 1:
        new = torch.matmul(places.chosen(length).to(new.dtype).transpose(0, 1), new)
    return torch.where(places.taken(length), new, old)
