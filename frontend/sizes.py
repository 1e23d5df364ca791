"""Sizes compared without asking torch: to ask whether a symbol equals something adds a guard."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import sympy
import torch

Size = int | torch.SymInt
"""A size of a tensor: a number, or one that is known when the program runs."""


def expression(size: Size) -> int | sympy.Expr:
    """``size`` as a hashable value; two that are known to be equal give the same."""
    return size if isinstance(size, int) else _expanded(size.node.expr)


def same_size(one: Size, other: Size) -> bool:
    """True if the sizes are known to be equal, for every value of their symbols."""
    return expression(one) == expression(other)


def same_sizes(one: Sequence[Size], other: Sequence[Size]) -> bool:
    """True if two shapes are known to be equal."""
    return len(one) == len(other) and all(map(same_size, one, other))


@lru_cache(maxsize=4096)
def _expanded(expr: sympy.Expr) -> int | sympy.Expr:
    # ``2 * (s + 1)`` and ``2 * s + 2`` are one size.
    expanded = sympy.expand(expr)
    return int(expanded) if expanded.is_Integer else expanded
