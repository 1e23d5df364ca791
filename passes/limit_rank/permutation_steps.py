"""A permutation of many axes as reshapes and permutations of few; pure, knows no torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterator, Sequence


def steps(
    sizes: Sequence[int], order: Sequence[int], max_rank: int
) -> list[tuple[list[int], list[int]]]:
    """Steps ``(reshape to, permute by)`` of at most ``max_rank`` axes that permute by ``order``.

    Axes of size one vanish, axes that stay neighbours merge. What is left above ``max_rank`` goes
    in several steps, each the one after which the most axes merge. Exact: the last step's elements,
    row by row, are those of the permuted tensor.
    """
    found: list[tuple[list[int], list[int]]] = []
    while True:
        sizes, order = merged(sizes, order)
        if list(order) == sorted(order):
            return found
        if len(order) <= max_rank:
            found.append((sizes, order))
            return found
        groups, moves = _best(order, max_rank)
        found.append(([math.prod(sizes[axis] for axis in group) for group in groups], moves))
        placed = [axis for move in moves for axis in groups[move]]
        sizes = [sizes[axis] for axis in placed]
        order = [placed.index(axis) for axis in order]


def merged(sizes: Sequence[int], order: Sequence[int]) -> tuple[list[int], list[int]]:
    """The same permutation with as few axes as possible."""
    blocks: list[list[int]] = []
    kept = [axis for axis in order if sizes[axis] != 1]
    rank = {axis: place for place, axis in enumerate(sorted(kept))}
    for axis in kept:
        if blocks and rank[axis] == rank[blocks[-1][-1]] + 1:
            blocks[-1].append(axis)
        else:
            blocks.append([axis])
    at_first = sorted(blocks)
    return (
        [math.prod(sizes[axis] for axis in block) for block in at_first],
        [at_first.index(block) for block in blocks],
    )


def runs(keys: Sequence[Hashable]) -> list[list[int]]:
    """Neighbouring positions with equal keys."""
    return [
        [place for place, _ in group]
        for _, group in itertools.groupby(enumerate(keys), key=lambda entry: entry[1])
    ]


def _best(order: Sequence[int], max_rank: int) -> tuple[list[list[int]], list[int]]:
    """Groups of neighbouring axes and their permutation, so that the most axes are settled."""
    candidates = (
        (groups, list(moves))
        for groups in _partitions(len(order), max_rank)
        for moves in itertools.permutations(range(max_rank))
    )
    return min(candidates, key=lambda candidate: _left(order, *candidate))


def _partitions(count: int, parts: int) -> Iterator[list[list[int]]]:
    for cuts in itertools.combinations(range(1, count), parts - 1):
        edges = [0, *cuts, count]
        yield [list(range(a, b)) for a, b in itertools.pairwise(edges)]


def _left(order: Sequence[int], groups: list[list[int]], moves: Sequence[int]) -> int:
    """How many blocks are still to be moved after one step."""
    placed = [axis for move in moves for axis in groups[move]]
    place = {axis: index for index, axis in enumerate(placed)}
    return 1 + sum(place[b] != place[a] + 1 for a, b in itertools.pairwise(order))
