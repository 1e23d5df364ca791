"""Float inputs that a float16 package takes in float32: positions, angles and coordinates."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import fx

from passes.patterns.nodes import Target, aten, dtype, is_call, is_tensor
from passes.patterns.operators import MOVES
from passes.patterns.pointwise import is_pointwise

# They read the last digits of their operand.
_PERIODIC = (aten.sin.default, aten.cos.default, aten.tan.default)
# By operator, the operand that holds coordinates.
_SAMPLING: Mapping[Target, int] = {aten.grid_sampler_2d.default: 1, aten.grid_sampler_3d.default: 1}
_MOVING = (
    *MOVES,
    aten.cat.default,
    aten.clone.default,
    aten.expand.default,
    aten.index_select.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.stack.default,
)
# Integers of these types are exact in float16.
_SMALL = (torch.bool, torch.uint8, torch.int8)


def exact_inputs(graph: fx.Graph, inputs: Collection[str]) -> frozenset[str]:
    """Those of the float ``inputs`` from which an angle or a coordinate is computed.

    That is: what is computed element by element from inputs and constants, by arithmetic or moves,
    reaches a sine, a cosine or the grid of a sampling. A timestep and a position as a float, a flow
    and a grid are such inputs; an activation is none, whatever is made of it.

    Args:
        graph: of the program.
        inputs: names of its user inputs.
    """
    # By node: the float inputs that it is computed from.
    sources: dict[fx.Node, frozenset[str]] = {}
    found: set[str] = set()
    for node in graph.nodes:
        if node.op == "placeholder":
            is_given = node.name in inputs and is_tensor(node) and dtype(node).is_floating_point
            sources[node] = frozenset({node.name} if is_given else ())
            continue
        given = node.all_input_nodes
        if node.op != "call_function" or not all(n in sources for n in given):
            continue
        if is_call(node, *_PERIODIC):
            found |= sources[given[0]]
        elif is_call(node, *_SAMPLING):
            coordinates = node.args[_SAMPLING[node.target]]
            found |= sources[coordinates] if isinstance(coordinates, fx.Node) else frozenset()
        elif is_pointwise(node.target) or is_call(node, *_MOVING) or not given:
            sources[node] = frozenset().union(*(sources[n] for n in given))
    return frozenset(found)


def small_inputs(graph: fx.Graph, inputs: Collection[str]) -> frozenset[str]:
    """Those of the ``inputs`` whose integers float16 holds, by their type."""
    return frozenset(
        node.name
        for node in graph.find_nodes(op="placeholder")
        if node.name in inputs and is_tensor(node) and dtype(node) in _SMALL
    )
