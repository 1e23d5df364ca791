"""A part of a program as a small graph: operators that do the same job are drawn once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Item:
    """One operator.

    Attributes:
        key: its name in the program.
        label: what is written on it.
        shape: of its first result.
        reads: keys of what it reads, other operators or values from outside.
        device: where it is *predicted* to run, ``""`` when that is not asked.
        passes: which passes wrote or rewrote it.
        source: the user's line.
    """

    key: str
    label: str
    shape: tuple[Any, ...]
    reads: tuple[str, ...]
    device: str = ""
    passes: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Vertex:
    """Operators that do the same job: equal labels and shapes, fed alike and read alike.

    Attributes:
        label: operator, or ``in`` for a value from outside.
        shape: of its result.
        count: how many operators it stands for.
        device: as :class:`Item`; ``mixed`` where they differ.
        passes: as :class:`Item`, of all.
        source: the user's line of the first.
        is_input: whether it stands for a value from outside.
    """

    label: str
    shape: tuple[Any, ...]
    count: int
    device: str
    passes: tuple[str, ...]
    source: str
    is_input: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values; sizes that are not fixed as text."""
        shape = [size if isinstance(size, int) else str(size) for size in self.shape]
        return {**vars(self), "shape": shape, "passes": list(self.passes)}


@dataclass(frozen=True)
class OpGraph:
    """An acyclic graph.

    Attributes:
        vertices: in an order in which every edge leads forward.
        edges: pairs of indices.
        ops: how many operators the vertices stand for.
    """

    vertices: tuple[Vertex, ...]
    edges: tuple[tuple[int, int], ...]
    ops: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "vertices": [vertex.to_json() for vertex in self.vertices],
            "edges": [list(edge) for edge in self.edges],
            "ops": self.ops,
        }


def merged(items: Sequence[Item]) -> OpGraph:
    """The graph of ``items``, which are in program order.

    Twelve heads become one column marked 12: operators merge when they have the same label and
    shape, the same classes of operators feed them, and the same classes read them.
    """
    by_key = {item.key: item for item in items}
    fed: dict[str, Hashable] = {}
    for item in items:
        for name in item.reads:
            fed.setdefault(name, ("in", name))
        inputs = tuple(hash(fed[name]) for name in item.reads)
        fed[item.key] = (item.label, item.shape, inputs)
    readers: dict[str, list[str]] = defaultdict(list)
    for item in items:
        for name in item.reads:
            readers[name].append(item.key)
    classes: dict[str, Hashable] = {}
    outside = [name for name in fed if name not in by_key]
    for key in [*outside, *by_key][::-1]:
        classes[key] = (hash(fed[key]), frozenset(hash(classes[r]) for r in readers[key]))
    return _graph(items, outside, classes)


def _graph(items: Sequence[Item], outside: list[str], classes: dict[str, Hashable]) -> OpGraph:
    members: dict[Hashable, list[Item]] = defaultdict(list)
    for name in outside:
        members[classes[name]].append(Item(name, "in", (), ()))
    for item in items:
        members[classes[item.key]].append(item)
    index = {name: place for place, name in enumerate(members)}
    edges = {
        (index[classes[name]], index[classes[item.key]]) for item in items for name in item.reads
    }
    vertices = tuple(_vertex(group, group[0].key in set(outside)) for group in members.values())
    return OpGraph(vertices, tuple(sorted(edges)), len(items))


def _vertex(group: list[Item], is_input: bool) -> Vertex:
    first = group[0]
    devices = {item.device for item in group}
    passes = tuple(dict.fromkeys(name for item in group for name in item.passes))
    device = first.device if len(devices) == 1 else "mixed"
    return Vertex(first.label, first.shape, len(group), device, passes, first.source, is_input)
