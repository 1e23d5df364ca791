"""Drawings without overlaps, top to bottom, and straight where nothing is in the way."""

from __future__ import annotations

import random

import pytest

from lowering.reporting.graph_layout import GAP_X, HEIGHT, WIDTH, layout
from lowering.reporting.op_graph import Item, merged


def random_graph(seed):
    draw = random.Random(seed)
    items = []
    for i in range(30):
        count = draw.randint(1, 3) if i else 0
        reads = tuple(f"n{draw.randrange(max(0, i - 6), i)}" for _ in range(count)) or ("x",)
        items.append(Item(f"n{i}", f"op{i}", (i,), reads))
    return merged(items)


@pytest.mark.parametrize("seed", range(25))
def test_no_overlaps_and_every_edge_leads_down(seed):
    graph = random_graph(seed)
    placed = layout(graph)
    for one, (x, y) in enumerate(placed.places):
        assert -1e-6 <= x <= placed.width - WIDTH + 1e-6 and 0 <= y <= placed.height - HEIGHT + 1e-6
        for u, v in placed.places[:one]:
            assert v != y or abs(u - x) >= WIDTH + GAP_X - 1e-6
    for (start, end), points in zip(graph.edges, placed.paths, strict=True):
        heights = [y for _, y in points]
        assert heights == sorted(heights)
        assert points[0][0] == pytest.approx(placed.places[start][0] + WIDTH / 2, abs=0.1)
        assert points[-1] == pytest.approx(
            (placed.places[end][0] + WIDTH / 2, placed.places[end][1]), abs=0.1
        )


@pytest.mark.parametrize("seed", range(25))
def test_edges_pass_beside_vertices(seed):
    graph = random_graph(seed)
    placed = layout(graph)
    for points in placed.paths:
        for (x, y), (_, below) in zip(points[1:-1:2], points[2:-1:2], strict=True):
            assert below - y == HEIGHT
            assert not any(v == y and u < x < u + WIDTH for u, v in placed.places)


def test_a_chain_is_straight_beside_its_residual():
    items = [Item("a", "norm", (1,), ("x",))]
    items += [Item(f"b{i}", f"op{i}", (1,), (f"b{i - 1}" if i else "a",)) for i in range(3)]
    items.append(Item("sum", "add", (1,), ("b2", "a")))
    graph = merged(items)
    placed = layout(graph)
    inner = [x for (x, _), v in zip(placed.places, graph.vertices, strict=True) if "op" in v.label]
    assert max(inner) - min(inner) < 0.05 * WIDTH


def test_what_comes_from_outside_stands_above_its_reader():
    items = [Item("side", "unsqueeze", (1,), ("mask",))]
    items += [Item(f"b{i}", f"op{i}", (1,), (f"b{i - 1}" if i else "x",)) for i in range(5)]
    items.append(Item("sum", "add", (1,), ("b4", "side")))
    graph = merged(items)
    rows = dict(zip([v.label for v in graph.vertices], layout(graph).places, strict=True))
    assert rows["unsqueeze"][1] == rows["op4"][1] < rows["add"][1]
