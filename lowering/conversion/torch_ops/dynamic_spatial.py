"""Norms, pools and resizes of images whose sizes are not known before the program runs.

coremltools 9.0 computes with sizes as with numbers in these, and fails where one is a symbol.
Each is left to it where all sizes are known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from coremltools.converters.mil._deployment_compatibility import AvailableTarget
from coremltools.converters.mil.mil import Var
from coremltools.converters.mil.mil.block import is_current_opset_version_compatible_with
from coremltools.converters.mil.mil.types.symbolic import any_symbolic

from frontend.sizes import same_size
from lowering.conversion.builder import Lowered, Lowering, MilBuilder, Operand
from lowering.conversion.torch_ops.common import size_vector, sizes_of
from lowering.errors import LoweringError

aten = torch.ops.aten


def _group_norm(
    mb: MilBuilder,
    x: Var,
    groups: int,
    weight: Var | None = None,
    bias: Var | None = None,
    eps: float = 1e-5,
    *_: object,
) -> Lowered:
    """A layer norm over each group: one operator where coremltools writes seven.

    It keeps its sums to itself, so that squares of large values overflow nowhere.
    """
    sizes = sizes_of(mb, x)
    flat = mb.reshape(x=x, shape=size_vector(mb, [sizes[0], groups, -1]))
    normed = mb.layer_norm(x=flat, axes=[2], epsilon=float(eps))
    result = mb.reshape(x=normed, shape=size_vector(mb, sizes))
    channels = [1, int(x.shape[1]), *[1] * (x.rank - 2)]
    if weight is not None:
        result = mb.mul(x=result, y=mb.reshape(x=weight, shape=channels))
    if bias is not None:
        result = mb.add(x=result, y=mb.reshape(x=bias, shape=channels))
    return result


def _adaptive_average(axes: int) -> Lowering:
    """Averages over windows, as products with matrices, computed where an axis has any size."""

    def lower(mb: MilBuilder, x: Var, output_size: Sequence[Operand]) -> Lowered:
        if not any_symbolic(x.shape):
            return NotImplemented
        spatial = list(range(x.rank - axes, x.rank))
        if all(isinstance(size, int) and size == 1 for size in output_size):
            return mb.reduce_mean(x=x, axes=spatial, keep_dims=True)
        before, after = mb.operand(0).shape, mb.result.shape
        sizes = sizes_of(mb, x)
        for axis, count in zip(spatial, output_size, strict=True):
            if same_size(before[axis], after[axis]):
                continue  # each window has one element
            if not isinstance(count, int):
                return NotImplemented
            windows = _windows(mb, sizes[axis], count)
            if axis == x.rank - 1:
                x = mb.matmul(x=x, y=windows)
            else:
                x = mb.matmul(x=windows, y=x, transpose_x=True)
        return x

    return lower


def _adaptive_maximum(axes: int) -> Lowering:
    """The largest of each window, axis by axis; the batch may have any size."""

    def lower(mb: MilBuilder, x: Var, output_size: Sequence[int]) -> Lowered:
        inner = x.shape[-axes:]
        if not any_symbolic(x.shape):
            return NotImplemented
        if any_symbolic(inner):
            raise LoweringError(
                "windows of an adaptive maximum over an axis of any size cannot be lowered",
                op=str(mb.node.target),
                expected="known sizes of the axes that are pooled",
                found=f"{tuple(map(str, inner))}",
                hint="fix these axes, or take an adaptive average, which can",
            )
        for axis, count in zip(range(x.rank - axes, x.rank), output_size, strict=True):
            largest = []
            for start, stop in _bounds(int(x.shape[axis]), count):
                begin, size = [0] * x.rank, [-1] * x.rank
                begin[axis], size[axis] = start, stop - start
                window = mb.slice_by_size(x=x, begin=begin, size=size)
                largest.append(mb.reduce_max(x=window, axes=[axis], keep_dims=True))
            x = mb.concat(values=largest, axis=axis)
        return x, None

    return lower


def _windows(mb: MilBuilder, size: Operand, count: int) -> np.ndarray | Var:
    """(size, count): column ``i`` averages the ``i``-th of torch's ``count`` windows."""
    if isinstance(size, Var):
        return _computed_windows(mb, size, count)
    size = int(size)
    matrix = np.zeros((size, count), dtype=np.float32)
    for index, (start, stop) in enumerate(_bounds(size, count)):
        matrix[start:stop, index] = 1 / (stop - start)
    return matrix


def _computed_windows(mb: MilBuilder, size: Var, count: int) -> Var:
    """The same of a size that the program computes: integers up to the last division."""
    window = np.arange(count, dtype=np.int32)
    start = mb.floor_div(x=mb.mul(x=size, y=window), y=np.int32(count))
    # The next whole number above (i + 1) * size / count.
    above = mb.add(x=mb.mul(x=size, y=window + 1), y=np.int32(count - 1))
    stop = mb.floor_div(x=above, y=np.int32(count))
    rows = mb.range_1d(start=np.int32(0), end=size, step=np.int32(1))
    rows = mb.expand_dims(x=rows, axes=[1])
    inside = mb.logical_and(x=mb.greater_equal(x=rows, y=start), y=mb.less(x=rows, y=stop))
    length = mb.cast(x=mb.sub(x=stop, y=start), dtype="fp32")
    return mb.real_div(x=mb.cast(x=inside, dtype="fp32"), y=length)


def _bounds(size: int, count: int) -> list[tuple[int, int]]:
    """Where each of torch's ``count`` windows over ``size`` begins and ends."""
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def bilinear_of_any_size(
    mb: MilBuilder,
    x: Var,
    output_size: Sequence[Operand] | None,
    align_corners: bool,
    scale_factors: Sequence[float] | None = None,
) -> Lowered:
    """To a size that the program computes; MIL can from iOS17 on."""
    if output_size is None or not any(isinstance(n, Var) for n in output_size):
        return NotImplemented
    if not is_current_opset_version_compatible_with(AvailableTarget.iOS17):
        return NotImplemented
    return mb.resize(
        x=x,
        shape=size_vector(mb, output_size),
        resized_dims=np.uint32(2),
        interpolation_mode="LINEAR",
        sampling_mode="STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS",
    )


TABLE = {
    aten.group_norm.default: _group_norm,
    aten.adaptive_avg_pool1d.default: _adaptive_average(1),
    aten.adaptive_avg_pool2d.default: _adaptive_average(2),
    aten.adaptive_max_pool1d.default: _adaptive_maximum(1),
    aten.adaptive_max_pool2d.default: _adaptive_maximum(2),
}
