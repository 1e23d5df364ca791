"""Operators on sizes that are not known before the program runs.

Sizes that follow from input sizes come first, sizes that follow from values last.

coremltools 9.0 loses track of such sizes: each result of its ``expand``, ``slice`` and ``index``
gets sizes of its own, even where torch knows that they equal another tensor's or a number, and
what follows is refused because it seems not to fit. The forms here keep them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from coremltools.converters.mil.mil import Var, types
from coremltools.converters.mil.mil.types.symbolic import any_symbolic
from torch import fx

from frontend.sizes import same_size
from lowering.conversion.builder import Lowered, MilBuilder, Operand
from lowering.conversion.torch_ops.common import axis_of, size_vector, sizes_of
from lowering.errors import LoweringError

aten = torch.ops.aten


def einsum_of_any_size(mb: MilBuilder, equation: str, operands: Sequence[Var]) -> Lowered:
    """Two operands as transposes and one ``matmul``, which asks nothing of unknown sizes.

    MIL's own ``einsum`` wants equal sizes under equal names. ``NotImplemented`` where all sizes
    are known, or where one product is not enough.
    """
    left, _, out = equation.partition("->")
    terms = left.split(",")
    if len(terms) != 2 or not out or not any(any_symbolic(var.shape) for var in operands):
        return NotImplemented
    if any(len(set(term)) != len(term) for term in (*terms, out)):
        return NotImplemented
    a, b = terms
    batch = [axis for axis in out if axis in a and axis in b]
    summed = [axis for axis in a if axis in b and axis not in out]
    rows = [axis for axis in a if axis not in b]
    columns = [axis for axis in b if axis not in a]
    if len(summed) != 1 or len(rows) > 1 or len(columns) > 1 or not set(rows + columns) <= set(out):
        return NotImplemented
    x = _laid(mb, operands[0], a, [*batch, *rows, *summed])
    y = _laid(mb, operands[1], b, [*batch, *summed, *columns])
    if not rows:
        x = mb.expand_dims(x=x, axes=[-2])
    if not columns:
        y = mb.expand_dims(x=y, axes=[-1])
    product = mb.matmul(x=x, y=y)
    spare = [-2] * (not rows) + [-1] * (not columns)
    if spare:
        product = mb.squeeze(x=product, axes=spare)
    return _laid(mb, product, "".join([*batch, *rows, *columns]), list(out))


def _laid(mb: MilBuilder, x: Var, axes: str, order: Sequence[str]) -> Var:
    perm = [axes.index(axis) for axis in order]
    return x if perm == list(range(len(perm))) else mb.transpose(x=x, perm=perm)


def _expand(mb: MilBuilder, x: Var, sizes: Sequence[Any], *, implicit: bool = False) -> Lowered:
    """Repeats the axes of size 1; the sizes of the result are those asked for."""
    if not any_symbolic(x.shape) and all(isinstance(size, int) for size in sizes):
        return NotImplemented
    added = len(sizes) - x.rank
    if added:
        x = mb.expand_dims(x=x, axes=list(range(added)))
    before = [1] * added + list(mb.operand(0).shape)
    # A symbolic size is not compared with 1: asking torch would add a guard. -1 keeps a size.
    repeats = [
        size if isinstance(old, int) and old == 1 and not _is_kept(size) else 1
        for old, size in zip(before, sizes, strict=True)
    ]
    if all(isinstance(count, int) and count == 1 for count in repeats):
        return mb.identity(x=x)
    return mb.tile(x=x, reps=size_vector(mb, repeats))


def _is_kept(size: Operand) -> bool:
    return isinstance(size, int) and size in (1, -1)


def _slice(
    mb: MilBuilder,
    x: Var,
    dim: int = 0,
    start: Operand | None = None,
    end: Operand | None = None,
    step: int = 1,
) -> Lowered:
    """The first elements of an axis, as many as another tensor has."""
    if not isinstance(end, Var) or start not in (None, 0) or step != 1:
        return NotImplemented
    axis = axis_of(dim, x.rank)
    end_node = mb.node.args[3]
    assert isinstance(end_node, fx.Node)
    if not same_size(mb.result.shape[axis], end_node.meta["val"]):
        return NotImplemented  # the end may lie beyond the axis
    sizes = sizes_of(mb, x)
    sizes[axis] = end
    return mb.slice_by_size(x=x, begin=[0] * x.rank, size=size_vector(mb, sizes))


def _split(mb: MilBuilder, x: Var, size: Operand, dim: int = 0) -> Lowered:
    """Parts of one size, which may be computed; the last part is what is left."""
    axis = axis_of(dim, x.rank)
    if isinstance(size, int) and isinstance(x.shape[axis], int):
        return NotImplemented
    before = len(mb.result) - 1
    covered = mb.mul(x=size, y=np.int32(before)) if isinstance(size, Var) else size * before
    return _parts(mb, x, axis, [size] * before + [mb.sub(x=sizes_of(mb, x)[axis], y=covered)])


def _split_with_sizes(mb: MilBuilder, x: Var, sizes: Sequence[Operand], dim: int = 0) -> Lowered:
    """Parts of given sizes, some of which are computed."""
    if all(isinstance(size, int) for size in sizes):
        return NotImplemented
    return _parts(mb, x, axis_of(dim, x.rank), sizes)


def _parts(mb: MilBuilder, x: Var, axis: int, lengths: Sequence[Operand]) -> tuple[Var, ...]:
    begin: list[Operand] = [0] * x.rank
    sizes = sizes_of(mb, x)
    parts = []
    for length in lengths:
        sizes[axis] = length
        part = mb.slice_by_size(x=x, begin=size_vector(mb, begin), size=size_vector(mb, sizes))
        parts.append(part)
        begin[axis] = mb.add(x=length, y=begin[axis])
    return tuple(parts)


def _masked_select(mb: MilBuilder, x: Var, mask: Var) -> Lowered:
    """The elements under the mask; how many is known when the program runs."""
    shape, other = (tuple(mb.operand(place).shape) for place in range(2))
    if shape != other:
        if any_symbolic(x.shape) or any_symbolic(mask.shape):
            return NotImplemented
        sizes = list(np.broadcast_shapes(x.shape, mask.shape))
        x, mask = _tiled(mb, x, sizes), _tiled(mb, mask, sizes)
    return mb.gather_nd(x=x, indices=mb.non_zero(x=mb.cast(x=mask, dtype="int32")))


def _tiled(mb: MilBuilder, x: Var, sizes: Sequence[int]) -> Var:
    added = len(sizes) - x.rank
    is_bool = types.is_bool(x.dtype)
    x = mb.cast(x=x, dtype="int32") if is_bool else x
    x = mb.expand_dims(x=x, axes=list(range(added))) if added else x
    repeats = [new // old for old, new in zip(x.shape, sizes, strict=True)]
    x = mb.tile(x=x, reps=repeats) if repeats != [1] * len(repeats) else x
    return mb.cast(x=x, dtype="bool") if is_bool else x


def _unique(
    mb: MilBuilder,
    x: Var,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
) -> tuple[Var, ...]:
    """Of the sorted elements those that differ from the one before."""
    if return_inverse or return_counts:
        raise LoweringError(
            "unique with return_inverse or return_counts cannot be lowered",
            op=str(mb.node.target),
            hint="compute them outside the model",
        )
    flat = mb.reshape(x=x, shape=[-1])
    ordered = mb.gather(x=flat, indices=mb.argsort(x=flat, axis=0, ascending=True), axis=0)
    later = mb.slice_by_index(x=ordered, begin=[1], end=[0], end_mask=[True])
    earlier = mb.slice_by_index(x=ordered, begin=[0], end=[-1])
    differs = mb.cast(x=mb.not_equal(x=later, y=earlier), dtype="int32")
    first = mb.concat(values=[np.array([1], dtype=np.int32), differs], axis=0)
    return (mb.gather_nd(x=ordered, indices=mb.non_zero(x=first)),)


TABLE = {
    aten._unique2.default: _unique,
    aten.masked_select.default: _masked_select,
    aten.expand.default: _expand,
    aten.slice.Tensor: _slice,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split_with_sizes,
}
