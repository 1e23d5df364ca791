"""Two layouts, one choice for every value: a minimum s-t cut.

Pure: knows neither torch nor tensors. Costs are non-negative integers, so that results are
reproducible; ``FORBIDDEN`` rules a label out.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

import networkx as nx
from networkx.algorithms.flow import boykov_kolmogorov

FORBIDDEN = None
"""Cost of a label that a value cannot have."""

_SOURCE, _SINK = ("source",), ("sink",)


@dataclass(frozen=True)
class CutValue:
    """One value to label.

    Attributes:
        image, plain: cost of computing it in either layout, ``FORBIDDEN`` if impossible.
    """

    image: int | None
    plain: int | None


@dataclass(frozen=True)
class Use:
    """Consumers that take ``driver`` in its own image placement or plainly.

    A conversion is paid once, however many consumers need it.

    Attributes:
        to_plain: cost where the driver is image and some consumer plain.
        to_image: cost where the driver is plain and some consumer image.
    """

    driver: Hashable
    consumers: tuple[Hashable, ...]
    to_plain: int
    to_image: int


@dataclass(frozen=True)
class Pair:
    """A consumer that takes ``driver`` in an image placement other than the driver's.

    Costs by (driver, consumer) label; both plain costs nothing. ``image_image`` must not exceed
    ``image_plain + plain_image``, which holds for conversions that can go through plain.
    """

    driver: Hashable
    consumer: Hashable
    image_image: int
    image_plain: int
    plain_image: int


@dataclass(frozen=True)
class Same:
    """Two values that must have the same label."""

    one: Hashable
    other: Hashable


Term = Use | Pair | Same


class ContradictionError(Exception):
    """No labelling satisfies what is forbidden; holds the keys of two values that clash."""


def solve(values: Mapping[Hashable, CutValue], terms: Iterable[Term]) -> tuple[set[Hashable], int]:
    """The cheapest labelling.

    Returns:
        the keys labelled image (of several cheapest labellings, the one with most of them
        image), and its cost.

    Raises:
        ContradictionError: a value can have neither label, or equal values differ in what they can.
    """
    graph: nx.DiGraph = nx.DiGraph()
    graph.add_nodes_from((_SOURCE, _SINK))
    unary = {key: [value.image, value.plain] for key, value in values.items()}
    for number, term in enumerate(terms):
        if isinstance(term, Same):
            _edge(graph, term.one, term.other, FORBIDDEN)
            _edge(graph, term.other, term.one, FORBIDDEN)
        elif isinstance(term, Use):
            _use(graph, term, number)
        else:
            # With x = 1 for image the pair costs ip·d(1-c) + pi·(1-d)c + ii·d·c, which is
            # (ip + pi - ii)·d(1-c) + pi·c + (ii - pi)·d: one edge and two unary terms.
            slack = term.image_plain + term.plain_image - term.image_image
            _edge(graph, term.driver, term.consumer, slack)
            _add(unary[term.consumer], term.plain_image)
            _add(unary[term.driver], term.image_image - term.plain_image)
    constant = 0
    for key, (image, plain) in unary.items():
        if image is not FORBIDDEN and image < 0:
            # A capacity cannot be negative: charge the other label instead.
            constant += image
            plain = plain if plain is FORBIDDEN else plain - image
            image = 0
        _edge(graph, key, _SINK, image)
        _edge(graph, _SOURCE, key, plain)
    try:
        cost, (_, sink_side) = nx.minimum_cut(graph, _SOURCE, _SINK, flow_func=boykov_kolmogorov)
    except nx.NetworkXUnbounded as error:
        raise ContradictionError(_clash(graph)) from error
    # networkx returns the partition with the smallest sink side.
    return {key for key in values if key not in sink_side}, int(cost) + constant


def _add(costs: list[int | None], image: int) -> None:
    if costs[0] is not FORBIDDEN:
        costs[0] += image


def _use(graph: nx.DiGraph, term: Use, number: int) -> None:
    """Two helper nodes make each conversion of a shared driver cost once."""
    if len(term.consumers) == 1:
        _edge(graph, term.driver, term.consumers[0], term.to_plain)
        _edge(graph, term.consumers[0], term.driver, term.to_image)
        return
    spread, gather = ("spread", number), ("gather", number)
    _edge(graph, term.driver, spread, term.to_plain)
    _edge(graph, gather, term.driver, term.to_image)
    for consumer in term.consumers:
        _edge(graph, spread, consumer, FORBIDDEN)
        _edge(graph, consumer, gather, FORBIDDEN)


def _edge(graph: nx.DiGraph, tail: Hashable, head: Hashable, capacity: int | None) -> None:
    """Adds capacity; an edge without the attribute is unbounded."""
    known = graph.get_edge_data(tail, head)
    if capacity is FORBIDDEN or (known is not None and "capacity" not in known):
        if known is not None:
            known.pop("capacity", None)
        else:
            graph.add_edge(tail, head)
    elif known is not None:
        known["capacity"] += capacity
    else:
        graph.add_edge(tail, head, capacity=capacity)


def _clash(graph: nx.DiGraph) -> tuple[Hashable, Hashable]:
    """The first and last value on an unbounded path from source to sink."""
    unbounded = nx.DiGraph(
        (u, v) for u, v, data in graph.edges(data=True) if "capacity" not in data
    )
    path = nx.shortest_path(unbounded, _SOURCE, _SINK)
    return path[1], path[-2]
