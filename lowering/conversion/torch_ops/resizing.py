"""Resizing, in forms of which no runtime has to read a factor.

coremltools 9.0 hands MIL a factor such as 1.7, and its runtimes do not agree on what it makes of a
size (apple/coremltools#951); it has no bicubic resize (#1747), takes an anti-aliased one for a
plain one (pytorch/executorch#5728), and refuses a bilinear one by a factor that does not divide
evenly. Here a resize of known sizes is one of: repetition by whole factors, a choice of elements by
index, MIL's ``resize_bilinear`` between two sizes, or products with constant matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from coremltools.converters.mil.mil import Var
from coremltools.converters.mil.mil.types.symbolic import any_symbolic
from torch import fx
from torch._ops import OpOverload

from frontend.schema import arguments
from lowering.conversion.builder import Lowered, Lowering, MilBuilder, Operand
from lowering.conversion.torch_ops.dynamic_spatial import bilinear_of_any_size

aten = torch.ops.aten


def _filtered(mb: MilBuilder, x: Var, *_: object) -> Lowered:
    """Resizing by one constant matrix per axis, which holds whatever filter torch uses.

    The matrix is what torch makes of the unit vectors, so that it is right by construction.
    """
    out = mb.result.shape[-2:]
    if any_symbolic(x.shape[-2:]) or any_symbolic(out):
        return NotImplemented
    rows, columns = (
        _axis_matrix(mb.node, int(size), int(wanted), axis)
        for axis, (size, wanted) in enumerate(zip(x.shape[-2:], out, strict=True))
    )
    return mb.matmul(x=mb.matmul(x=rows, y=x), y=columns, transpose_y=True)


def _axis_matrix(node: fx.Node, size: int, wanted: int, axis: int) -> np.ndarray:
    """(1, 1, wanted, size): the operator of ``node`` along one axis.

    The other axis has two elements and keeps them: torch's anti-aliased kernels compute something
    else along an axis beside one of a single element.
    """
    assert isinstance(node.target, OpOverload)
    units = torch.eye(size).reshape(size, 1, size, 1).expand(-1, -1, -1, 2).contiguous()
    out = [wanted, 2]
    if axis == 1:
        units, out = units.mT.contiguous(), out[::-1]
    scales: list[float | None] = [None, None]
    # Sizes are exact; a scale, where one was given, still sets the sampling step.
    scales[axis] = _scales(node)[axis]
    with torch.no_grad():
        corners = arguments(node)["align_corners"]
        resized = node.target.overloadpacket.default(units, out, corners, *scales)
    one = resized.select(3 - axis, 0)
    return one.reshape(size, wanted).t().reshape(1, 1, wanted, size).numpy().copy()


def _nearest(mb: MilBuilder, x: Var, size: Sequence[Operand] | None, *options: Any) -> Lowered:
    """Elements by their indices, which are what torch picks of a row of numbers."""
    before, after = x.shape[2:], mb.result.shape[2:]
    if any_symbolic(x.shape[2:]) or any_symbolic(after):
        return _sequence(mb, x, options[-1], None) if x.rank == 3 else NotImplemented
    picks = [
        _picks(mb.node, int(old), int(new), axis)
        for axis, (old, new) in enumerate(zip(before, after, strict=True))
    ]
    factors = [len(pick) // old for pick, old in zip(picks, before, strict=True)]
    repeats = all(
        np.array_equal(pick, np.repeat(np.arange(old), factor))
        for pick, old, factor in zip(picks, before, factors, strict=True)
    )
    if repeats and x.rank == 4:
        return mb.upsample_nearest_neighbor(
            x=x, scale_factor_height=float(factors[0]), scale_factor_width=float(factors[1])
        )
    if repeats and x.rank == 3:
        image = mb.expand_dims(x=x, axes=[2])
        image = mb.upsample_nearest_neighbor(
            x=image, scale_factor_height=1.0, scale_factor_width=float(factors[0])
        )
        return mb.squeeze(x=image, axes=[2])
    for axis, pick in enumerate(picks, 2):
        if not np.array_equal(pick, np.arange(int(x.shape[axis]))):
            x = mb.gather(x=x, indices=pick, axis=axis)
    return x


def _picks(node: fx.Node, size: int, wanted: int, axis: int) -> np.ndarray:
    """(wanted,) int32: which of ``size`` elements the operator of ``node`` takes along ``axis``."""
    assert isinstance(node.target, OpOverload)
    scales = _scales(node)
    scales = [scale if index == axis else None for index, scale in enumerate(scales)]
    shape = [size if index == axis else 1 for index in range(len(scales))]
    out = [wanted if index == axis else 1 for index in range(len(scales))]
    row = torch.arange(size, dtype=torch.float32).reshape(1, 1, *shape)
    found = node.target.overloadpacket.default(row, out, *scales)
    return found.reshape(-1).numpy().astype(np.int32)


def _linear(
    mb: MilBuilder, x: Var, size: Sequence[Operand] | None, corners: bool, *options: Any
) -> Lowered:
    """Between two sizes where these say all; by matrices where a factor sets another step."""
    if any_symbolic(x.shape[2:]) or any_symbolic(mb.result.shape[2:]):
        if x.rank == 3:
            return _sequence(mb, x, options[-1], corners)
        return bilinear_of_any_size(mb, x, size, corners, *options)
    before = [int(n) for n in x.shape[2:]]
    after = [int(n) for n in mb.result.shape[2:]]
    image = x if x.rank == 4 else mb.expand_dims(x=x, axes=[2])
    axes = list(zip(before, after, _scales(mb.node), strict=True))
    if corners or all(scale is None or old * scale == new for old, new, scale in axes):
        resized = _between_sizes(mb, image, [1, *before][-2:], [1, *after][-2:], corners)
    else:
        resized = image
        for axis, (old, new, scale) in enumerate(axes, 4 - len(axes)):
            matrix = _linear_matrix(old, new, scale)
            if axis == 2:
                resized = mb.matmul(x=matrix, y=resized)
            else:
                resized = mb.matmul(x=resized, y=matrix, transpose_y=True)
    return resized if x.rank == 4 else mb.squeeze(x=resized, axes=[2])


def _between_sizes(
    mb: MilBuilder, image: Var, before: Sequence[int], after: Sequence[int], corners: bool
) -> Var:
    if all(new % old == 0 for old, new in zip(before, after, strict=True)):
        height, width = (new // old for old, new in zip(before, after, strict=True))
        return mb.upsample_bilinear(
            x=image,
            scale_factor_height=float(height),
            scale_factor_width=float(width),
            align_corners=corners,
        )
    return mb.resize_bilinear(
        x=image,
        target_size_height=after[0],
        target_size_width=after[1],
        sampling_mode="STRICT_ALIGN_CORNERS" if corners else "UNALIGN_CORNERS",
    )


def _linear_matrix(size: int, wanted: int, scale: float | None) -> np.ndarray:
    """(1, 1, wanted, size): what torch makes of the unit vectors along one axis."""
    units = torch.eye(size).reshape(size, 1, size)
    rows = aten.upsample_linear1d.default(units, [wanted], False, scale)
    return rows.reshape(size, wanted).t().reshape(1, 1, wanted, size).numpy().copy()


def _sequence(mb: MilBuilder, x: Var, given: Any, corners: bool | None) -> Lowered:
    """A sequence of unknown length, by a factor; nearest without ``corners``.

    coremltools leaves its own extra axis in place.
    """
    factor = given[0] if isinstance(given, Sequence) and given else _growth(mb.node)
    if factor is None or not isinstance(factor, int | float):
        return NotImplemented
    image = mb.expand_dims(x=x, axes=[2])
    # Both are given: one left to its default would stay float32 where the other is rounded.
    factors = {"scale_factor_height": 1.0, "scale_factor_width": float(factor)}
    if corners is None:
        wide = mb.upsample_nearest_neighbor(x=image, **factors)
    else:
        wide = mb.upsample_bilinear(x=image, align_corners=corners, **factors)
    return mb.squeeze(x=wide, axes=[2])


def _growth(node: fx.Node) -> float | None:
    """By what number the last size is multiplied, None where it is not one number."""
    sizes = [n.meta["val"].shape[-1] for n in (node, node.all_input_nodes[0])]
    if any(isinstance(size, int) for size in sizes):
        return None
    ratio = sizes[0].node.expr / sizes[1].node.expr
    return float(ratio) if ratio.is_number else None


def _scales(node: fx.Node) -> list[float | None]:
    """Scale factors per axis as the operator was called, ``None`` where sizes were given."""
    given = arguments(node)
    axes = node.meta["val"].ndim - 2
    if "scale_factors" in given:
        return list(given["scale_factors"] or [None] * axes)
    if "scales" in given:
        return [given["scales"]]
    return [given[name] for name in ("scales_d", "scales_h", "scales_w")[3 - axes :]]


TABLE: dict[OpOverload, Lowering] = {
    aten.upsample_bicubic2d.default: _filtered,
    aten.upsample_bicubic2d.vec: _filtered,
    aten._upsample_bicubic2d_aa.default: _filtered,
    aten._upsample_bicubic2d_aa.vec: _filtered,
    aten._upsample_bilinear2d_aa.default: _filtered,
    aten._upsample_bilinear2d_aa.vec: _filtered,
    aten.upsample_nearest1d.vec: _nearest,
    aten.upsample_nearest2d.vec: _nearest,
    aten.upsample_nearest2d.default: _nearest,
    aten.upsample_linear1d.vec: _linear,
    aten.upsample_bilinear2d.vec: _linear,
    aten.upsample_bilinear2d.default: _linear,
}
