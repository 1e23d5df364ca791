"""Where layers lie in a packed cache."""

from __future__ import annotations

import pytest
import torch

from frontend.decoder.packing import CacheSlot, Extent, aligned, joined, pack
from frontend.decoder.probing import Attention, Decoder, Layer
from frontend.decoder.step import rooms
from frontend.decoder.store import PackedStore, Places, Write


def _decoder(*windows: int | None) -> Decoder:
    layers = tuple(Layer(Attention(2, 8, 4, window)) for window in windows)
    return Decoder("cache", frozenset(), 16, None, layers)


@pytest.mark.parametrize(("size", "expected"), [(1, 32), (32, 32), (33, 64), (500, 512)])
def test_aligned(size: int, expected: int):
    assert aligned(size) == expected


def test_equal_layers_are_rows():
    packing = pack([Extent(2, 32, 8)] * 3)
    assert packing.shape == (3, 2, 32, 8)
    assert [(slot.row, slot.offset) for slot in packing.slots] == [(0, 0), (1, 0), (2, 0)]


@pytest.mark.parametrize(
    ("second", "shape"),
    [
        (Extent(2, 64, 8), (1, 2, 96, 8)),
        (Extent(4, 32, 8), (1, 4, 64, 8)),
        (Extent(2, 32, 16), (1, 2, 64, 16)),
    ],
)
def test_unequal_layers_lie_behind_each_other(second: Extent, shape: tuple[int, ...]):
    packing = pack([Extent(2, 32, 8), second])
    assert packing.shape == shape
    assert [(slot.row, slot.offset) for slot in packing.slots] == [(0, 0), (0, 32)]


def test_rooms_of_windows():
    found = rooms(_decoder(None, 16, 200), 128, 8)
    assert found.lengths == (128, 32, 128)  # a window beyond the context is no window
    assert found.rings == {32}
    assert found.limited(40).lengths == (64, 32, 64)
    assert found.limited(20).rings == {32}
    assert rooms(_decoder(16), 128, 8, ring=False).rings == frozenset()


@pytest.mark.parametrize("write", ["position", "last", "blend"])
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("position", [0, 5, 29])
def test_writes_land_in_their_slot(write, tokens: int, position: int):
    packing = pack([Extent(2, 32, 4), Extent(1, 64, 2)])
    before = torch.randn(packing.shape)
    new = torch.randn(1, 1, tokens, 2)
    places = Places(torch.tensor([position]), tokens, frozenset(), packing.slots)
    store = PackedStore(before, packing, places, write)
    seen = store.write(1, new)
    expected = before.clone()
    expected[:, :1, 32 + position : 32 + position + tokens, :2] = new
    torch.testing.assert_close(store.written(), expected)
    torch.testing.assert_close(seen, expected[:, :1, 32:96, :2])
    torch.testing.assert_close(store.read(0), before[:, :, :32])


@pytest.mark.parametrize("layers", [(0, 1, 2), (0, 2), (1,)])
@pytest.mark.parametrize(
    "extents",
    [[Extent(2, 32, 4)] * 3, [Extent(2, 32, 4), Extent(2, 64, 4), Extent(1, 32, 4)]],
)
@pytest.mark.parametrize("position", [0, 7, 40])
def test_what_is_written_behind_all_layers_is_what_each_would_write(
    layers: tuple[int, ...], extents: list[Extent], position: int
):
    packing = pack(extents)
    before = torch.randn(packing.shape)
    rings = frozenset({32})
    ways: list[tuple[Write, tuple[CacheSlot, ...]]] = [
        ("position", packing.slots),
        ("last", joined(packing.slots)),
    ]
    stores = [
        PackedStore(before, packing, Places(torch.tensor([position]), 1, rings, slots), write)
        for write, slots in ways
    ]
    for layer in layers:
        new = torch.randn(1, extents[layer].heads, 1, 4)
        seen = [store.write(layer, new) for store in stores]
        torch.testing.assert_close(*seen, rtol=0, atol=0)
    torch.testing.assert_close(*(store.written() for store in stores), rtol=0, atol=0)
    assert not torch.equal(stores[1].written(), before)


@pytest.mark.parametrize("position", [0, 31, 32, 70])
def test_rings_know_which_token_lies_where(position: int):
    places = Places(torch.tensor([position]), 1, frozenset([32]))
    turned = places.turned(32)
    held = (torch.arange(32) + turned).tolist()
    for row, token in enumerate(held):
        newest = max((t for t in range(position + 1) if t % 32 == row), default=None)
        assert token == newest if newest is not None else token > position
