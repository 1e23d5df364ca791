"""Cholesky factors and triangular systems of matrices of moderate size.

Neither needs a pivot, so each unrolls into a few operators for each row.
"""

from __future__ import annotations

import numpy as np
import torch
from coremltools.converters.mil.mil import Var

from lowering.conversion.builder import Lowered, MilBuilder
from lowering.conversion.torch_ops.common import rows_of

aten = torch.ops.aten

# Every row takes four or five operators, one after the other.
MOST_ROWS = 64


def _rows(mb: MilBuilder, x: Var) -> int:
    return rows_of(mb, x, MOST_ROWS, "Matrices are factorised row by row")


def _block(mb: MilBuilder, x: Var, row: int | None, column: int | None) -> Var:
    """One row, one column or one element of each matrix; all of what is None."""
    begin, size = [0] * x.rank, [-1] * x.rank
    for axis, place in ((x.rank - 2, row), (x.rank - 1, column)):
        if place is not None:
            begin[axis], size[axis] = place, 1
    return mb.slice_by_size(x=x, begin=begin, size=size)


def _transposed(mb: MilBuilder, x: Var) -> Var:
    return mb.transpose(x=x, perm=[*range(x.rank - 2), x.rank - 1, x.rank - 2])


def _cholesky(
    mb: MilBuilder, x: Var, *, upper: bool = False, check_errors: bool = False
) -> Lowered:
    """Column by column; of ``x`` only the triangle that torch reads."""
    count = _rows(mb, x)
    rest = _transposed(mb, x) if upper else x
    columns = []
    for place in range(count):
        below = (np.arange(count) >= place).astype(np.float32)[:, None]
        root = mb.sqrt(x=_block(mb, rest, place, place))
        column = mb.real_div(x=mb.mul(x=_block(mb, rest, None, place), y=below), y=root)
        columns.append(column)
        if place + 1 < count:
            rest = mb.sub(x=rest, y=mb.matmul(x=column, y=column, transpose_y=True))
    factor = mb.concat(values=columns, axis=x.rank - 1)
    return (_transposed(mb, factor) if upper else factor), None


def _solve_triangular(
    mb: MilBuilder, x: Var, y: Var, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Var:
    """Row by row: what is found is taken out of the rows that remain."""
    if not left:
        x, y, upper = _transposed(mb, x), _transposed(mb, y), not upper
    count = _rows(mb, x)
    # One batch for both: the rows that are found are put together again.
    rest = mb.add(x=y, y=mb.mul(x=_block(mb, x, None, 0), y=0.0))
    found: dict[int, Var] = {}
    order = range(count)[::-1] if upper else range(count)
    for place in order:
        row = _block(mb, rest, place, None)
        if not unitriangular:
            row = mb.real_div(x=row, y=_block(mb, x, place, place))
        found[place] = row
        remain = np.arange(count) < place if upper else np.arange(count) > place
        if remain.any():
            factors = mb.mul(x=_block(mb, x, None, place), y=remain.astype(np.float32)[:, None])
            rest = mb.sub(x=rest, y=mb.matmul(x=factors, y=row))
    solution = mb.concat(values=[found[place] for place in range(count)], axis=rest.rank - 2)
    return solution if left else _transposed(mb, solution)


TABLE = {
    aten.linalg_cholesky_ex.default: _cholesky,
    aten.linalg_solve_triangular.default: _solve_triangular,
}
