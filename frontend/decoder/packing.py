"""How the keys (or the values) of all layers share one tensor; pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

ALIGNMENT = 32
"""State axes are made multiples of this. One that is not fails on the ANE (*reported*:
apple/coremltools#2631)."""


def aligned(size: int) -> int:
    """The smallest multiple of ``ALIGNMENT`` that is not below ``size``."""
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Extent:
    """Room for one layer: heads, tokens, and the width of a head."""

    heads: int
    length: int
    width: int


@dataclass(frozen=True)
class CacheSlot:
    """A layer's place: ``[row, :heads, offset:offset + length, :width]`` of the whole.

    With ``rows`` more than 1, the places of as many layers, from ``row`` on.
    """

    row: int
    offset: int
    extent: Extent
    rows: int = 1


@dataclass(frozen=True)
class Packing:
    """One tensor for all layers.

    Attributes:
        shape: of the tensor: rows, heads, tokens, width.
        slots: one for each layer.
    """

    shape: tuple[int, int, int, int]
    slots: tuple[CacheSlot, ...]


def pack(extents: Sequence[Extent]) -> Packing:
    """Layers of one size are rows (layer, head, token, width), as in hand-written ports.

    Layers of different sizes, such as windows beside whole contexts or cross-attention beside
    self-attention, lie one behind the other along the tokens, since that is where they differ
    most; heads and widths take the room of the largest.
    """
    first = extents[0]
    if all(extent == first for extent in extents):
        shape = (len(extents), first.heads, aligned(first.length), first.width)
        return Packing(shape, tuple(CacheSlot(row, 0, first) for row in range(len(extents))))
    slots, offset = [], 0
    for extent in extents:
        slots.append(CacheSlot(0, offset, extent))
        offset += aligned(extent.length)
    heads = max(extent.heads for extent in extents)
    width = max(extent.width for extent in extents)
    return Packing((1, heads, offset, width), tuple(slots))


def joined(slots: Sequence[CacheSlot]) -> tuple[CacheSlot, ...]:
    """The same places, those of neighbouring rows and of one size as one."""
    found: list[CacheSlot] = []
    for slot in slots:
        last = found[-1] if found else None
        if last is not None and slot == replace(last, row=last.row + last.rows, rows=slot.rows):
            found[-1] = replace(last, rows=last.rows + slot.rows)
        else:
            found.append(slot)
    return tuple(found)
