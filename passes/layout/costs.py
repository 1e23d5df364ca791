"""What conversions and layouts cost, in bytes moved; only ratios matter."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from passes.layout.placement import Conversion, Placement, convert
from passes.layout.plan import LayoutPlan, sizes
from passes.patterns.nodes import aten, input_of, is_call, permuted_axes

# Costs are in bytes that a conversion moves, fp16. A reshape that changes the grouping of axes
# is charged a quarter: it re-tiles channels but keeps memory order (assumed; the M4 dispatcher
# prices both by bytes, see its dumps).
_FP16_BYTES = 2
_RESHAPE_SHARE = 4
# An operator costs something however small its tensor: about the bytes that stream in the
# dispatcher's smallest observed price.
_PER_CONVERSION = 4096
# Tie-break: of two equal layouts take the image.
_PLAIN_PENALTY = 1
# Stands in for a symbolic size where bytes are compared; only ratios matter.
_ASSUMED_SIZE = 128


def lengths(placement: Placement, node: fx.Node) -> list[Any]:
    """Physical sizes of ``node`` in ``placement``."""
    own: tuple[Any, ...] = sizes(node)
    return [math.prod(own[a] for a in group) if group else 1 for group in placement.groups]


def _elements(node: fx.Node) -> int:
    values = node.meta["val"]
    total = 0
    for value in values if isinstance(values, tuple | list) else (values,):
        if isinstance(value, torch.Tensor):
            total += math.prod(n if isinstance(n, int) else _ASSUMED_SIZE for n in value.shape)
    return total


def conversion_cost(node: fx.Node, start: Placement, end: Placement) -> int:
    """Cost of bringing the value of ``node`` from one placement to another."""
    if start == end:
        return 0
    return _steps_cost(node, start, end, convert(start, end))


def _steps_cost(node: fx.Node, start: Placement, end: Placement, steps: Conversion) -> int:
    moved = _elements(node) * _FP16_BYTES
    cost = 0
    if steps.moves:
        cost += moved + _PER_CONVERSION
    if steps.split is not None or (steps.merge and not _only_ones(node, start, end)):
        cost += moved // _RESHAPE_SHARE + _PER_CONVERSION
    return cost


def _only_ones(node: fx.Node, start: Placement, end: Placement) -> bool:
    """True if the placements differ in axes of size one alone."""
    one, other = lengths(start, node), lengths(end, node)
    return [n for n in one if n != 1] == [n for n in other if n != 1]


def image_cost(node: fx.Node, chosen: LayoutPlan) -> int:
    """Cost of running ``node`` by its plan, beside the conversion of its inputs."""
    if chosen.emit is not None:
        return 0
    source, placement = chosen.inputs[0]
    before, after = lengths(placement, source), lengths(chosen.output, node)
    if [n for n in before if n != 1] == [n for n in after if n != 1]:
        return 0
    return _elements(node) * _FP16_BYTES // _RESHAPE_SHARE + _PER_CONVERSION


def plain_cost(node: fx.Node) -> int:
    """Cost of running ``node`` as the program spells it."""
    moved = _elements(node) * _FP16_BYTES
    if is_call(node, aten.permute.default):
        axes = [a for a in permuted_axes(node) if sizes(input_of(node))[a] != 1]
        is_free = axes == sorted(axes) or _is_flag(node)
        return _PLAIN_PENALTY if is_free else moved + _PER_CONVERSION
    if is_call(node, aten.reshape.default):
        return moved // _RESHAPE_SHARE + _PER_CONVERSION
    return _PLAIN_PENALTY


def _is_flag(permute: fx.Node) -> bool:
    """True if the last two axes are swapped for products alone: MIL's matmul does it by a flag."""
    order = permuted_axes(permute)
    rank = len(order)
    swapped = [*range(rank - 2), rank - 1, rank - 2]
    return order == swapped and all(is_call(user, aten.matmul.default) for user in permute.users)
