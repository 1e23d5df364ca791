"""Determinants, inverses and solutions of small systems, by cofactors.

Elimination needs pivots, which are choices on data; cofactors need none, and poses and cameras are
matrices of at most four rows.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from coremltools.converters.mil.mil import Var

from lowering.conversion.builder import Lowered, MilBuilder
from lowering.conversion.torch_ops.common import rows_of

aten = torch.ops.aten

MOST_ROWS = 4


def _cofactors(mb: MilBuilder, x: Var) -> Var:
    """The determinant of what is left without row i and column j, with its sign."""
    size = rows_of(mb, x, MOST_ROWS, "Matrices are inverted by cofactors")
    if size == 1:
        return mb.add(x=mb.mul(x=x, y=0.0), y=1.0)
    shifted = {
        (down, right): _rolled(mb, _rolled(mb, x, x.rank - 2, down), x.rank - 1, right)
        for down, right in itertools.product(range(1, size), repeat=2)
    }
    total: Any = None
    for columns in itertools.permutations(range(1, size)):
        product = shifted[1, columns[0]]
        for down, right in enumerate(columns[1:], start=2):
            product = mb.mul(x=product, y=shifted[down, right])
        if total is None:
            total = product
        else:
            total = (mb.add if _is_even(columns) else mb.sub)(x=total, y=product)
    if size % 2:
        return total  # an odd number of rows: going round gives each its sign
    checkers = (-1.0) ** np.add.outer(np.arange(size), np.arange(size))
    return mb.mul(x=total, y=checkers.astype(np.float32))


def _rolled(mb: MilBuilder, x: Var, axis: int, by: int) -> Var:
    places = (np.arange(int(x.shape[axis]), dtype=np.int32) + by) % int(x.shape[axis])
    return mb.gather(x=x, indices=places.astype(np.int32), axis=axis)


def _is_even(order: tuple[int, ...]) -> bool:
    return sum(a > b for a, b in itertools.combinations(order, 2)) % 2 == 0


def _expanded(mb: MilBuilder, x: Var, cofactors: Var) -> Var:
    """The determinant, (..., 1, 1), along the first row."""
    products = mb.reduce_sum(x=mb.mul(x=x, y=cofactors), axes=[-1], keep_dims=True)
    begin, size = [0] * x.rank, [-1] * (x.rank - 2) + [1, 1]
    return mb.slice_by_size(x=products, begin=begin, size=size)


def _determinant(mb: MilBuilder, x: Var) -> Lowered:
    determinant = _expanded(mb, x, _cofactors(mb, x))
    return mb.squeeze(x=determinant, axes=[x.rank - 2, x.rank - 1]), None, None


def _inverted(mb: MilBuilder, x: Var) -> Var:
    cofactors = _cofactors(mb, x)
    order = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
    adjugate = mb.transpose(x=cofactors, perm=order)
    return mb.real_div(x=adjugate, y=_expanded(mb, x, cofactors))


def _inverse(mb: MilBuilder, x: Var, *, check_errors: bool = False) -> Lowered:
    return _inverted(mb, x), None


def _solution(
    mb: MilBuilder, x: Var, y: Var, *, left: bool = True, check_errors: bool = False
) -> Lowered:
    inverse = _inverted(mb, x)
    # The same rule as torch's: a batch of vectors has an axis less than the matrices.
    if len(mb.result[0].shape) == x.rank - 1:
        column = mb.matmul(x=inverse, y=mb.expand_dims(x=y, axes=[y.rank]))
        return mb.squeeze(x=column, axes=[x.rank - 1]), None, None, None
    found = mb.matmul(x=inverse, y=y) if left else mb.matmul(x=y, y=inverse)
    return found, None, None, None


TABLE = {
    aten._linalg_det.default: _determinant,
    aten.linalg_inv_ex.default: _inverse,
    aten._linalg_solve_ex.default: _solution,
}
