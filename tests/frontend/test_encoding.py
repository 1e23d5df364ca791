"""Encodings: grids that spread over a weight, palettes and integers that decode to its values."""

from __future__ import annotations

import itertools

import pytest
import torch

from frontend.encoding import Encoding, EncodingError, gathered, owner, palette_of, spread

SHAPES = [(6,), (4, 6), (4, 6, 1), (4, 6, 2, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_grid_is_found_again_behind_what_it_spreads_to(shape: tuple[int, ...]) -> None:
    for sizes in itertools.product(
        *[[n for n in (1, 2, 3, size) if size % n == 0] for size in shape]
    ):
        grid = torch.randperm(torch.Size(sizes).numel()).reshape(sizes)
        dense = spread(grid, shape)
        assert dense.shape == shape
        found = gathered(dense)
        assert found.shape == grid.shape and bool((found == grid).all())


def test_a_grid_has_the_largest_blocks_that_hold() -> None:
    assert gathered(torch.tensor([1, 1, 1, 1, 2, 2])).tolist() == [1, 1, 2]
    assert gathered(torch.tensor([[5, 5], [5, 5]])).shape == (1, 1)


@pytest.mark.parametrize("grid", [(1, 1), (2, 1), (4, 1), (1, 3), (2, 3)], ids=str)
def test_a_palette_decodes_to_every_value(grid: tuple[int, int]) -> None:
    weight = torch.randint(-2, 2, (4, 6)) * 0.37
    palette = palette_of(weight, grid, 2)
    tables = spread(palette.tables.flatten(0, 1).reshape(*grid, 4)[..., 0], weight.shape)
    assert palette.tables.shape == (*grid, 4) and tables.shape == weight.shape
    for row, column in itertools.product(range(4), range(6)):
        block = palette.tables[row * grid[0] // 4, column * grid[1] // 6]
        assert block[palette.indices[row, column]] == weight[row, column]


def test_a_palette_has_its_number_of_values_and_no_more() -> None:
    weight = torch.arange(8.0).reshape(2, 4)
    assert palette_of(weight, (2, 1), 2).tables.tolist() == [[[0, 1, 2, 3]], [[4, 5, 6, 7]]]
    with pytest.raises(EncodingError, match="a block has 8 values, and a 2-bit palette 4"):
        palette_of(weight, (1, 1), 2)
    sparse = torch.tensor([[0.0, 1, 2, 3, 4]])
    assert 0 not in palette_of(sparse, (1, 1), 2, skip_zeros=True).tables
    with pytest.raises(EncodingError, match="5 values"):
        palette_of(sparse, (1, 1), 2)


@pytest.mark.parametrize(("is_signed", "points"), [(True, None), (True, 3), (False, 128)])
def test_integers_are_found_again(is_signed: bool, points: int | None) -> None:
    scales = torch.rand(4, 3) + 0.01
    codes = torch.randint(0, 256, (4, 12)) - 128 * is_signed
    zeros = None if points is None else torch.full((1, 1), points)
    weight = (codes - (points or 0)) * spread(scales, (4, 12))
    encoding = Encoding(8, False, is_signed, scales=scales, zero_points=zeros)
    assert torch.equal(encoding.integers(weight), codes)
    with pytest.raises(EncodingError, match="no multiples of the scales of 8-bit integers"):
        encoding.integers(weight + 0.3 * spread(scales, (4, 12)))
    with pytest.raises(EncodingError, match="outside of 8-bit integers"):
        encoding.integers(weight + 300 * spread(scales, (4, 12)))


def test_an_encoding_is_found_again_in_the_state_of_a_program() -> None:
    encoding = Encoding(4, True, palettes=torch.arange(3).reshape(3, 1))
    state = encoding.entries("a.weight")
    assert {owner(name) for name in state} == {"a.weight"} and owner("b.bias") == "b.bias"
    found = Encoding.of(state, "a.weight")
    assert found is not None and found.spelled == encoding.spelled == "sparse 4-bit palette"
    assert found.palettes is not None and found.palettes.tolist() == [[0], [1], [2]]
    assert found.scales is None
    assert Encoding.of(state, "b.weight") is None
