"""Linear algebra of small matrices: singular values.

MIL has none of it. One-sided Jacobi rotations need no pivot and no data-dependent choice, so they
unroll into operators of fixed shape.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from coremltools.converters.mil.mil import Var

from lowering.conversion.builder import Lowered, Lowering, MilBuilder
from lowering.errors import LoweringError

aten = torch.ops.aten

# Rounds grow with the smaller side, each of some twenty operators.
MOST_SINGULAR_VALUES = 6
# One sweep turns every pair of columns once; convergence is quadratic. *Measured*: four leave 1e-10
# of the largest value for six columns.
_SWEEPS = 4
# Keeps a quotient of zeros at zero.
_SMALLEST = 1e-30


def _sides(mb: MilBuilder, x: Var) -> tuple[int, int]:
    if not all(isinstance(size, (int, np.integer)) for size in x.shape[-2:]):
        raise LoweringError(
            "A matrix whose size is not known cannot be decomposed", op=str(mb.node.target)
        )
    return int(x.shape[-2]), int(x.shape[-1])


def _singular_values(
    mb: MilBuilder,
    x: Var,
    full_matrices: bool = False,
    compute_uv: bool = True,
    *,
    driver: str | None = None,
) -> Lowered:
    """Rotates pairs of columns until all are orthogonal (Jacobi): their lengths are the values."""
    rows, columns = _sides(mb, x)
    least = min(rows, columns)
    vectors_read = any(
        user.target is operator.getitem and user.args[1] != 1 and user.users
        for user in mb.node.users
    )
    if vectors_read or least > MOST_SINGULAR_VALUES:
        raise LoweringError(
            "singular values are computed for small matrices only, and singular vectors never",
            op=str(mb.node.target),
            expected=f"a matrix of at most {MOST_SINGULAR_VALUES} rows or columns, values alone",
            found=f"{rows}x{columns}" + (", vectors are read" if vectors_read else ""),
            hint="compute what depends on weights alone before the export",
        )
    if columns > rows:
        order = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
        x = mb.transpose(x=x, perm=order)
    if least > 1:
        x = _orthogonal(mb, x, least)
    lengths = mb.squeeze(x=mb.sqrt(x=_dot(mb, x, x)), axes=[x.rank - 2])
    if least > 1:
        lengths, _ = mb.topk(x=lengths, k=least, axis=lengths.rank - 1, ascending=False)
    return None, lengths, None


def _orthogonal(mb: MilBuilder, x: Var, count: int) -> Var:
    """The columns of ``x``, turned until they are orthogonal; half of them meet the other half.

    After each round all but one change seats, so that every two columns meet once in a sweep.
    """
    last = x.rank - 1
    if count % 2:
        x = mb.pad(x=x, pad=[0, 0] * last + [0, 1], mode="constant", constant_val=0.0)
    seats = count + count % 2
    half = seats // 2
    moved = [0, half, *range(1, half - 1), *range(half + 1, seats), half - 1]
    for _ in range(_SWEEPS * (seats - 1)):
        a, b = mb.split(x=x, num_splits=2, axis=last)
        x = mb.concat(values=_rotated(mb, a, b), axis=last)
        if half > 1:
            x = mb.gather(x=x, indices=np.array(moved, dtype=np.int32), axis=last)
    return x


def _dot(mb: MilBuilder, a: Var, b: Var) -> Var:
    """Of each column with the one in the same place."""
    return mb.reduce_sum(x=mb.mul(x=a, y=b), axes=[-2], keep_dims=True)


def _rotated(mb: MilBuilder, a: Var, b: Var) -> tuple[Var, Var]:
    """Each pair of columns turned by the angle that makes it orthogonal."""
    difference = mb.sub(x=_dot(mb, b, b), y=_dot(mb, a, a))
    twice = mb.mul(x=_dot(mb, a, b), y=2.0)
    size = mb.sqrt(x=mb.add(x=mb.square(x=difference), y=mb.square(x=twice)))
    below = mb.add(x=mb.add(x=mb.abs(x=difference), y=size), y=_SMALLEST)
    tangent = mb.real_div(x=twice, y=below)
    falls = mb.cast(x=mb.less(x=difference, y=0.0), dtype="fp32")
    tangent = mb.mul(x=tangent, y=mb.sub(x=1.0, y=mb.mul(x=falls, y=2.0)))
    cosine = mb.rsqrt(x=mb.add(x=mb.square(x=tangent), y=1.0))
    sine = mb.mul(x=cosine, y=tangent)
    first = mb.sub(x=mb.mul(x=a, y=cosine), y=mb.mul(x=b, y=sine))
    second = mb.add(x=mb.mul(x=a, y=sine), y=mb.mul(x=b, y=cosine))
    return first, second


TABLE: dict[Any, Lowering] = {
    aten._linalg_svd.default: _singular_values,
}
