"""The packed cache while one step runs: layers write their new rows and read their slot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from frontend.decoder.packing import CacheSlot, Packing
from frontend.ops import slice_update

Write = Literal["position", "blend"]
"""``position`` writes the new rows where they belong; ``blend`` rewrites the layer's slot with a
mask, so that no place depends on data."""

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
        if not self._bounds:
            self._bounds = self._moving_bounds()
        return self._bounds[slot]

    def _moving_bounds(self) -> dict[CacheSlot, tuple[Tensor, Tensor]]:
        """Of all slots at once: one sum of numbers, taken apart, however many layers there are."""
        numbers: list[int] = []
        for slot in self._slots:
            for corner in _corners(slot, self._tokens):
                numbers += corner
        whole = torch.tensor(numbers)
        for length in dict.fromkeys(slot.extent.length for slot in self._slots):
            moves = [[0, 0, int(slot.extent.length == length), 0] * 2 for slot in self._slots]
            whole = whole + self.start(length) * torch.tensor(moves).flatten()
        corners = torch.split(whole, 4)
        return {slot: (corners[2 * at], corners[2 * at + 1]) for at, slot in enumerate(self._slots)}

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
        [slot.row + 1, extent.heads, slot.offset + rows, extent.width],
    )


class PackedStore:
    """Packed keys or values of all layers, during one step.

    Attributes:
        tensor: (row, head, token, width), the newest version.
    """

    def __init__(self, tensor: Tensor, packing: Packing, places: Places, write: Write) -> None:
        self.tensor = tensor
        self._packing = packing
        self._places = places
        self._write = write

    def read(self, layer: int) -> Tensor:
        """(1, head, token, width) of one layer."""
        slot = self._packing.slots[layer]
        extent = slot.extent
        found = self.tensor
        for axis, (start, size) in enumerate(
            ((slot.row, 1), (0, extent.heads), (slot.offset, extent.length), (0, extent.width))
        ):
            if size != found.shape[axis]:
                found = found.narrow(axis, start, size)
        return found

    def write(self, layer: int, new: Tensor) -> Tensor:
        """Adds (1, head, new token, width) and returns the layer's slot with it."""
        slot = self._packing.slots[layer]
        moving = self._write == "position" and new.shape[_TOKENS] != slot.extent.length
        if self._write == "blend":
            new = _blended(self.read(layer), new, self._places)
        begin, end = self._places.bounds(slot, moving)
        self.tensor = slice_update(self.tensor, new, begin, end)
        is_whole = not moving and new.shape[_TOKENS] == slot.extent.length
        return self._places.ordered(new if is_whole else self.read(layer))

    def put(self, layer: int, whole: Tensor) -> None:
        """Replaces the layer's slot."""
        begin, end = self._places.bounds(self._packing.slots[layer], moving=False)
        self.tensor = slice_update(self.tensor, whole, begin, end)


def _blended(old: Tensor, new: Tensor, places: Places) -> Tensor:
    """``old`` (1, H, S, D) with the rows of ``new`` (1, H, T, D) at ``places``."""
    length = old.shape[_TOKENS]
    if new.shape[_TOKENS] > 1:
        new = torch.matmul(places.chosen(length).to(new.dtype).transpose(0, 1), new)
    return torch.where(places.taken(length), new, old)


def states_of(stores: Mapping[str, PackedStore]) -> dict[str, Tensor]:
    """The newest tensors by name."""
    return {name: store.tensor for name, store in stores.items()}
