"""Where to draw the vertices of a small acyclic graph: layers from top to bottom."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from lowering.reporting.op_graph import OpGraph

# Sizes in SVG user units, 1 px at full size.
WIDTH, HEIGHT, GAP_X, GAP_Y = 118, 38, 14, 26
# Edges that pass a layer take less room there than a vertex.
_PASSING = 12
_SWEEPS = 24


@dataclass(frozen=True)
class Layout:
    """A drawing.

    Attributes:
        places: left upper corner of each vertex.
        paths: for each edge, the points it passes, from lower to upper side of its ends.
        width: of the drawing.
        height: of the drawing.
    """

    places: tuple[tuple[float, float], ...]
    paths: tuple[tuple[tuple[float, float], ...], ...]
    width: float
    height: float


def layout(graph: OpGraph) -> Layout:
    """Layers by longest path, few crossings by medians, vertices near their neighbours."""
    layers = _layers(graph)
    chains = [_chain(edge, layers) for edge in graph.edges]
    # A slot is a vertex (v, layer) or an edge that passes a layer (~edge, layer).
    rows: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for vertex, layer in enumerate(layers):
        rows[layer].append((vertex, layer))
    for chain in chains:
        for slot in chain[1:-1]:
            rows[slot[1]].append(slot)
    links = [pair for chain in chains for pair in itertools.pairwise(chain)]
    order = _ordered([rows[layer] for layer in sorted(rows)], links)
    centre = _centres(order, links)
    left = min(x - _size(slot) / 2 for slot, x in centre.items())
    middle = {slot: x - left for slot, x in centre.items()}
    places = tuple(
        (middle[v, layer] - WIDTH / 2, layer * (HEIGHT + GAP_Y)) for v, layer in enumerate(layers)
    )
    paths = tuple(_path(chain, middle) for chain in chains)
    width = max(x + _size(slot) / 2 for slot, x in middle.items())
    return Layout(places, paths, width, max(layers) * (HEIGHT + GAP_Y) + HEIGHT)


def _layers(graph: OpGraph) -> list[int]:
    """Longest path from the top; what is fed from outside stands right above its first reader."""
    layers = [0] * len(graph.vertices)
    readers: dict[int, list[int]] = defaultdict(list)
    fed_inside = set()
    for start, end in graph.edges:  # sorted by start, and every edge leads forward
        layers[end] = max(layers[end], layers[start] + 1)
        readers[start].append(end)
        if not graph.vertices[start].is_input:
            fed_inside.add(end)
    for index in reversed(range(len(graph.vertices))):
        if index not in fed_inside and readers[index]:
            layers[index] = min(layers[reader] for reader in readers[index]) - 1
    return layers


def _chain(edge: tuple[int, int], layers: Sequence[int]) -> list[tuple[int, int]]:
    start, end = edge
    # Edges of one vertex share the slots they pass: they are drawn as one line that forks late.
    passing = [(~start, layer) for layer in range(layers[start] + 1, layers[end])]
    return [(start, layers[start]), *passing, (end, layers[end])]


def _size(slot: tuple[int, int]) -> float:
    return WIDTH if slot[0] >= 0 else _PASSING


Slot = tuple[int, int]


def _ordered(rows: list[list[Slot]], links: Sequence[tuple[Slot, Slot]]) -> list[list[Slot]]:
    """The rows with slots sorted by the mean place of their neighbours, down and up in turns."""
    rows = [list(dict.fromkeys(row)) for row in rows]
    above: dict[Slot, list[Slot]] = defaultdict(list)
    below: dict[Slot, list[Slot]] = defaultdict(list)
    for upper, lower in links:
        above[lower].append(upper)
        below[upper].append(lower)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        near, indices = (
            (above, range(1, len(rows))) if down else (below, range(len(rows) - 2, -1, -1))
        )
        for index in indices:
            fixed = rows[index - 1 if down else index + 1]
            place = {slot: i / max(len(fixed) - 1, 1) for i, slot in enumerate(fixed)}
            own = {slot: i / max(len(rows[index]) - 1, 1) for i, slot in enumerate(rows[index])}
            rows[index].sort(key=lambda s: _mean([place[n] for n in near[s]], own[s]))
    return rows


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _centres(
    rows: Sequence[Sequence[Slot]], links: Sequence[tuple[Slot, Slot]]
) -> dict[Slot, float]:
    """Horizontal centres: near the weighted mean of the neighbours, in order, without overlaps."""
    near: dict[Slot, list[tuple[Slot, int]]] = defaultdict(list)
    for upper, lower in links:
        weight = _straightness(upper, lower)
        near[upper].append((lower, weight))
        near[lower].append((upper, weight))
    centre: dict[Slot, float] = {}
    for row in rows:
        centre.update(_spread(row, [0.0] * len(row)))
    for sweep in range(_SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = []
            for slot in row:
                total = sum(weight for _, weight in near[slot])
                pull = sum(centre[other] * weight for other, weight in near[slot])
                wanted.append(pull / total if total else centre[slot])
            centre.update(_spread(row, wanted))
    return centre


def _straightness(upper: Slot, lower: Slot) -> int:
    """How much a link resists a bend: lines that pass most, then operator to operator."""
    passing = (upper[0] < 0) + (lower[0] < 0)
    return (4, 1, 8)[passing]


def _spread(row: Sequence[Slot], wanted: Sequence[float]) -> dict[Slot, float]:
    """The centres nearest to those wanted, in squares, that keep the order and the gaps."""
    offsets = [0.0]
    for one, other in itertools.pairwise(row):
        offsets.append(offsets[-1] + (_size(one) + _size(other)) / 2 + GAP_X)
    # Without the offsets the centres need only be in order: pool those that are not.
    pools: list[tuple[float, int]] = []  # mean and number of members
    for x, offset in zip(wanted, offsets, strict=False):
        mean, count = x - offset, 1
        while pools and pools[-1][0] > mean:
            before, members = pools.pop()
            mean = (mean * count + before * members) / (count + members)
            count += members
        pools.append((mean, count))
    means = [mean for mean, count in pools for _ in range(count)]
    return {slot: m + offset for slot, m, offset in zip(row, means, offsets, strict=False)}


def _path(chain: Sequence[Slot], middle: dict[Slot, float]) -> tuple[tuple[float, float], ...]:
    step = HEIGHT + GAP_Y
    points = [(middle[chain[0]], chain[0][1] * step + HEIGHT)]
    for slot in chain[1:-1]:
        points += [(middle[slot], slot[1] * step), (middle[slot], slot[1] * step + HEIGHT)]
    points.append((middle[chain[-1]], chain[-1][1] * step))
    return tuple((round(x, 1), float(y)) for x, y in points)
