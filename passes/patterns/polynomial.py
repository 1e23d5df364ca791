"""Reads arithmetic on one tensor as a polynomial, however it is spelled."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import fx
from torch.fx.node import Argument

from passes.patterns.nodes import aten, is_call
from passes.patterns.operands import (
    add_sides,
    difference,
    mul_sides,
    powered,
    quotient,
    scalar,
)
from passes.rewriter import Rewriter

Polynomial = dict[int, float]
"""Exponent to coefficient."""

_MAX_DEGREE = 4
_MAX_DEPTH = 8


def polynomial(
    rw: Rewriter, node: Argument, x: fx.Node, depth: int = _MAX_DEPTH
) -> Polynomial | None:
    """``node`` as a polynomial of ``x``; ``None`` if it is anything else."""
    if node is x:
        return {1: 1.0}
    number = scalar(rw, node)
    if number is not None:
        return {0: number}
    if depth == 0:
        return None

    def read(part: Argument) -> Polynomial | None:
        return polynomial(rw, part, x, depth - 1)

    for one, other in mul_sides(node):
        return _product(read(one), read(other))
    for one, other in add_sides(node):
        return _sum(read(one), read(other), 1.0)
    parts = difference(node)
    if parts is not None:
        return _sum(read(parts[0]), read(parts[1]), -1.0)
    parts = quotient(node)
    if parts is not None:
        divisor = scalar(rw, parts[1])
        return _product(read(parts[0]), {0: 1 / divisor}) if divisor else None
    power = powered(rw, node)
    if power is not None and power[1] in (1.0, 2.0, 3.0):
        base = read(power[0])
        result = base
        for _ in range(int(power[1]) - 1):
            result = _product(result, base)
        return result
    if is_call(node, aten.neg.default):
        return _product(read(node.args[0]), {0: -1.0})
    return None


def is_polynomial(found: Polynomial | None, wanted: Mapping[int, float], tolerance: float) -> bool:
    """True if the coefficients are those ``wanted``, relatively within ``tolerance``."""
    if found is None:
        return False
    present = {power: c for power, c in found.items() if c != 0}
    return present.keys() == wanted.keys() and all(
        math.isclose(present[power], c, rel_tol=tolerance) for power, c in wanted.items()
    )


def _product(one: Polynomial | None, other: Polynomial | None) -> Polynomial | None:
    if one is None or other is None or max(one) + max(other) > _MAX_DEGREE:
        return None
    result: Polynomial = {}
    for a, c in one.items():
        for b, d in other.items():
            result[a + b] = result.get(a + b, 0.0) + c * d
    return result


def _sum(one: Polynomial | None, other: Polynomial | None, sign: float) -> Polynomial | None:
    if one is None or other is None:
        return None
    result = dict(one)
    for power, c in other.items():
        result[power] = result.get(power, 0.0) + sign * c
    return result
