"""Images and signals: padding, resampling, transposed convolution, patches.

coremltools 9.0 has no circular or negative padding and no bicubic resize (apple/coremltools#1747),
takes an anti-aliased resize for a plain one (pytorch/executorch#5728), and cannot lower
``grid_sample``, ``unfold`` and ``fold`` from torch.export.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from coremltools.converters.mil.mil import Var, types
from torch import fx
from torch._ops import OpOverload

from frontend.schema import arguments
from lowering.conversion.builder import Lowered, Lowering, MilBuilder, Operand
from lowering.conversion.torch_ops.common import cast
from lowering.conversion.torch_ops.padding import pad_by_sizes

aten = torch.ops.aten


def _pad(
    mb: MilBuilder, x: Var, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Lowered:
    """``pad`` is (before, after) for the last axis, then for the one before it, and so on."""
    if not all(isinstance(amount, int) for amount in pad):
        return pad_by_sizes(mb, x, pad, mode, value)
    if mode != "circular" and min(pad) >= 0:
        return NotImplemented
    amounts = {x.rank - 1 - i // 2: (pad[i], pad[i + 1]) for i in range(0, len(pad), 2)}
    for axis, (before, after) in amounts.items():
        if mode == "circular":
            x = _wrapped(mb, x, axis, before, after)
        elif before < 0 or after < 0:
            x = _part(mb, x, axis, max(-before, 0), -max(-after, 0) or None)
    if mode == "circular" or max(pad) <= 0:
        return x
    both = [max(0, amount) for axis in range(x.rank) for amount in amounts.get(axis, (0, 0))]
    fill = cast(mb, value or 0, mb.result.dtype)
    return mb.pad(x=x, pad=both, mode=mode, constant_val=fill)


def _wrapped(mb: MilBuilder, x: Var, axis: int, before: int, after: int) -> Var:
    parts = [
        *([_part(mb, x, axis, -before, None)] if before > 0 else []),
        _part(mb, x, axis, max(-before, 0), -max(-after, 0) or None),
        *([_part(mb, x, axis, 0, after)] if after > 0 else []),
    ]
    return mb.concat(values=parts, axis=axis) if len(parts) > 1 else parts[0]


def _part(mb: MilBuilder, x: Var, axis: int, begin: int, end: int | None) -> Var:
    """``x[begin:end]`` along ``axis``."""
    here = [index == axis for index in range(x.rank)]
    return mb.slice_by_index(
        x=x,
        begin=[begin if on else 0 for on in here],
        end=[(end or 0) if on else 0 for on in here],
        begin_mask=[not on for on in here],
        end_mask=[not on or end is None for on in here],
    )


def _resized(mb: MilBuilder, x: Var, *_: object) -> Lowered:
    """Resizing by one constant matrix per axis, which holds whatever filter torch uses.

    The matrix is what torch makes of the unit vectors, so that it is right by construction.
    """
    out = mb.result.shape[-2:]
    if not all(isinstance(size, (int, np.integer)) for size in (*x.shape[-2:], *out)):
        return NotImplemented
    rows, columns = (
        _axis_matrix(mb.node, int(size), int(wanted), axis)
        for axis, (size, wanted) in enumerate(zip(x.shape[-2:], out, strict=True))
    )
    return mb.matmul(x=mb.matmul(x=rows, y=x), y=columns, transpose_y=True)


def _resized_sequence(linear: bool) -> Lowering:
    """A sequence of unknown length, by a factor: coremltools leaves its own extra axis in place."""

    def lower(
        mb: MilBuilder,
        x: Var,
        size: Sequence[Operand] | None,
        *options: bool | Sequence[float] | None,
    ) -> Lowered:
        if isinstance(x.shape[-1], (int, np.integer)):
            return NotImplemented
        given = options[-1]
        factor = given[0] if isinstance(given, Sequence) and given else _growth(mb.node)
        if factor is None:
            return NotImplemented
        image = mb.expand_dims(x=x, axes=[2])
        # Both are given: one left to its default would stay float32 where the other is rounded.
        factors = {"scale_factor_height": 1.0, "scale_factor_width": float(factor)}
        if linear:
            wide = mb.upsample_bilinear(x=image, align_corners=bool(options[0]), **factors)
        else:
            wide = mb.upsample_nearest_neighbor(x=image, **factors)
        return mb.squeeze(x=wide, axes=[2])

    return lower


def _growth(node: fx.Node) -> float | None:
    """By what number the last size is multiplied, None where it is not one number."""
    sizes = [n.meta["val"].shape[-1] for n in (node, node.all_input_nodes[0])]
    if any(isinstance(size, int) for size in sizes):
        return None
    ratio = sizes[0].node.expr / sizes[1].node.expr
    return float(ratio) if ratio.is_number else None


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


def _scales(node: fx.Node) -> list[float | None]:
    """Scale factors per axis as the operator was called, ``None`` where sizes were given."""
    given = arguments(node)
    if "scale_factors" in given:
        return list(given["scale_factors"] or [None, None])
    return [given["scales_h"], given["scales_w"]]


_SAMPLING = {0: "bilinear", 1: "nearest"}
_OUTSIDE = {0: "constant", 1: "border", 2: "reflection"}


def _grid_sampler(
    mb: MilBuilder, x: Var, grid: Var, sampling: int, outside: int, align: bool
) -> Lowered:
    if sampling not in _SAMPLING:
        return NotImplemented
    padding = _OUTSIDE[outside]
    if padding == "reflection" and not align:
        padding = "symmetric"  # torch reflects at the edge of the border pixel, not its centre
    return mb.resample(
        x=x,
        coordinates=grid,
        sampling_mode=_SAMPLING[sampling],
        padding_mode=padding,
        padding_value=0.0,
        coordinates_mode="normalized_minus_one_to_one",
        align_corners=align,
    )


def _convolution(
    mb: MilBuilder,
    x: Var,
    weight: Var,
    bias: Var | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Lowered:
    """Transposed, with rows of the result that no window reaches: they hold the bias alone."""
    if not transposed or all(
        extra <= edge for extra, edge in zip(output_padding, padding, strict=False)
    ):
        return NotImplemented
    spatial = x.rank - 2
    stride, padding, dilation, output_padding = (
        list(option) * spatial if len(option) == 1 else list(option)
        for option in (stride, padding, dilation, output_padding)
    )
    pads, beyond = [], [0] * 4
    for edge, extra in zip(padding, output_padding, strict=True):
        pads += [edge, max(0, edge - extra)]
        beyond += [0, max(0, extra - edge)]
    y = mb.conv_transpose(
        x=x,
        weight=weight,
        strides=stride,
        pad_type="custom",
        pad=pads,
        dilations=dilation,
        groups=groups,
    )
    y = mb.pad(x=y, pad=beyond, mode="constant", constant_val=0.0)
    if bias is None:
        return y
    return mb.add(x=y, y=mb.reshape(x=bias, shape=[1, -1] + [1] * spatial))


def _im2col(
    mb: MilBuilder,
    x: Var,
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Lowered:
    """Patches as one grouped convolution: each output channel copies one tap of one channel."""
    known = all(isinstance(size, (int, np.integer)) for size in x.shape[1:])
    if not types.is_float(x.dtype) or x.rank != 4 or not known:
        return NotImplemented
    channels = int(x.shape[1])
    patches = mb.conv(
        x=x,
        weight=_taps(kernel, channels),
        strides=list(stride),
        pad_type="custom",
        pad=[padding[0], padding[0], padding[1], padding[1]],
        dilations=list(dilation),
        groups=channels,
    )
    _, taps, *places = patches.shape
    return mb.reshape(x=patches, shape=[*_batch(x), int(taps), math.prod(map(int, places))])


def _col2im(
    mb: MilBuilder,
    x: Var,
    size: Sequence[int],
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Lowered:
    """The transpose of ``im2col``: overlapping patches are added."""
    if not types.is_float(x.dtype) or x.rank != 3:
        return NotImplemented
    channels = int(x.shape[1]) // (kernel[0] * kernel[1])
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    counts = [
        (s + 2 * p - span) // step + 1
        for s, p, span, step in zip(size, padding, spans, stride, strict=True)
    ]
    patches = mb.reshape(x=x, shape=[*_batch(x), int(x.shape[1]), *counts])
    whole = mb.conv_transpose(
        x=patches,
        weight=_taps(kernel, channels),
        strides=list(stride),
        pad_type="valid",
        dilations=list(dilation),
        groups=channels,
    )
    # Rows past the last whole window hold zeros; the padding is cut off at both ends.
    reach = [(c - 1) * step + span for c, step, span in zip(counts, stride, spans, strict=True)]
    missing = [max(0, s + p - r) for s, p, r in zip(size, padding, reach, strict=True)]
    if any(missing):
        pads = [0, 0, 0, 0, 0, missing[0], 0, missing[1]]
        whole = mb.pad(x=whole, pad=pads, mode="constant", constant_val=0.0)
    return mb.slice_by_size(x=whole, begin=[0, 0, *padding], size=[-1, -1, *size])


def _batch(x: Var) -> list[int]:
    """The batch size, as a shape takes it: -1 where it is not known."""
    return [int(x.shape[0]) if isinstance(x.shape[0], (int, np.integer)) else -1]


def _taps(kernel: Sequence[int], channels: int) -> np.ndarray:
    taps = kernel[0] * kernel[1]
    one_each = np.eye(taps, dtype=np.float32).reshape(taps, 1, *kernel)
    return np.tile(one_each, (channels, 1, 1, 1))


TABLE = {
    aten.pad.default: _pad,
    aten.upsample_bicubic2d.default: _resized,
    aten.upsample_bicubic2d.vec: _resized,
    aten._upsample_bicubic2d_aa.default: _resized,
    aten._upsample_bicubic2d_aa.vec: _resized,
    aten._upsample_bilinear2d_aa.default: _resized,
    aten._upsample_bilinear2d_aa.vec: _resized,
    aten.upsample_nearest1d.vec: _resized_sequence(linear=False),
    aten.upsample_linear1d.vec: _resized_sequence(linear=True),
    aten.grid_sampler_2d.default: _grid_sampler,
    aten.convolution.default: _convolution,
    aten.im2col.default: _im2col,
    aten.col2im.default: _col2im,
}
