"""Sizes of inputs that vary: which they may have, and where."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from frontend.dynamic_shapes import DIM_SYMBOLS
from lowering.conversion.input_shapes import MAX_SHAPES

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class SizeSpec:
    """One size that varies.

    Attributes:
        name: of its ``Dim``.
        values: the sizes that a package takes, ascending.
        places: every input and axis that has it.
    """

    name: str
    values: tuple[int, ...]
    places: tuple[tuple[str, int], ...]

    def to_json(self) -> dict[str, object]:
        """As plain JSON values."""
        return {
            "name": self.name,
            "values": list(self.values),
            "places": [list(place) for place in self.places],
        }


def sizes_of(
    program: ExportedProgram, listed: Mapping[str, Sequence[int]]
) -> tuple[tuple[SizeSpec, ...], list[str]]:
    """The varying sizes of a program just captured, and what is wrong with ``listed``."""
    symbols: Mapping[str, str] = program.graph_module.meta.get(DIM_SYMBOLS, {})
    where = dynamic_axes(program)
    ranges = {str(symbol): bounds for symbol, bounds in program.range_constraints.items()}
    found, problems = [], []
    for name in listed.keys() - symbols.keys():
        known = ", ".join(symbols) or "none"
        problems.append(f"sizes: {name!r} is no size that varies; those of dynamic_shapes: {known}")
    for name, symbol in symbols.items():
        values = tuple(sorted(set(listed.get(name, ()))))
        places = tuple(place for place, expression in where.items() if expression == symbol)
        if not values:
            problems.append(f"sizes: {name!r} varies, and no sizes are listed for it")
        elif not all(isinstance(size, int) and size > 0 for size in values):
            problems.append(f"sizes: those of {name!r} are {list(values)}, not sizes from 1 on")
        bounds = ranges.get(symbol)
        if bounds is not None and any(not bounds.lower <= size <= bounds.upper for size in values):
            legal = f"{bounds.lower} to {bounds.upper}"
            problems.append(f"sizes: those of {name!r} are {list(values)}, and it may be {legal}")
        found.append(SizeSpec(name, values, places))
    named = set(symbols.values())
    for (name, axis), expression in where.items():
        if expression not in named:
            problems.append(f"sizes: axis {axis} of {name!r} is {expression}, which has no name")
    return tuple(found), problems + size_problems(tuple(found))


def size_problems(sizes: Sequence[SizeSpec]) -> list[str]:
    """What is wrong with sizes by themselves."""
    count = math.prod(len(entry.values) for entry in sizes)
    if count > MAX_SHAPES:
        return [f"sizes: make {count} combinations, and Core ML takes at most {MAX_SHAPES}"]
    return []


def dynamic_axes(program: ExportedProgram) -> dict[tuple[str, int], str]:
    """Each input and axis whose size varies, with torch's expression of it."""
    taken = set(program.graph_signature.user_inputs)
    return {
        (node.name, axis): str(size.node.expr)
        for node in program.graph.find_nodes(op="placeholder")
        if node.name in taken and isinstance(node.meta.get("val"), Tensor)
        for axis, size in enumerate(node.meta["val"].shape)
        if isinstance(size, torch.SymInt)
    }


def dims_of(sizes: Sequence[SizeSpec]) -> dict[str, dict[int, Dim]] | None:
    """The same as ``torch.export`` takes it, by input; ``None`` where one size is all there is."""
    found: dict[str, dict[int, Dim]] = {}
    for entry in sizes:
        if len(entry.values) == 1:
            continue
        dim = Dim(entry.name, min=min(entry.values), max=max(entry.values))
        for name, axis in entry.places:
            found.setdefault(name, {})[axis] = dim
    return found or None


def combinations(sizes: Sequence[SizeSpec]) -> Iterator[dict[str, int]]:
    """Every combination of the listed sizes, by name."""
    for values in itertools.product(*(entry.values for entry in sizes)):
        yield {entry.name: value for entry, value in zip(sizes, values, strict=True)}


def resized(
    example: Mapping[str, Tensor], sizes: Sequence[SizeSpec], chosen: Mapping[str, int]
) -> dict[str, Tensor]:
    """Example inputs at other sizes: cut, or repeated from their start; values stay legal."""
    found = dict(example)
    for entry in sizes:
        for name, axis in entry.places:
            value = found[name]
            order = torch.arange(chosen[entry.name]) % value.shape[axis]
            found[name] = value.index_select(axis, order)
    return found


def example_shapes(program: ExportedProgram, values: Sequence[Tensor]) -> list[Shape]:
    """The shapes of ``values`` of a program, symbols being what they are in its example inputs."""
    known: dict[str, int] = {}
    leaves = [leaf for leaf in pytree.tree_leaves(program.example_inputs) if torch.is_tensor(leaf)]
    nodes = {n.name: n.meta.get("val") for n in program.graph.find_nodes(op="placeholder")}
    names = [name for name in program.graph_signature.user_inputs if isinstance(name, str)]
    tensors = [nodes[name] for name in names if isinstance(nodes.get(name), Tensor)]
    for value, leaf in zip(tensors, leaves, strict=True):
        for size, real in zip(value.shape, leaf.shape, strict=True):
            if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                known[str(size.node.expr)] = int(real)

    def number(size: int | torch.SymInt) -> int:
        if isinstance(size, int):
            return size
        expression = size.node.expr
        return int(expression.subs({s: known[str(s)] for s in expression.free_symbols}))

    return [tuple(number(size) for size in value.shape) for value in values]
