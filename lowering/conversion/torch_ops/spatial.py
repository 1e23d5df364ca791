"""Images and signals: padding, resampling, transposed convolution, patches.

coremltools 9.0 has no circular or negative padding, and cannot lower ``grid_sample``, ``unfold``
and ``fold`` from torch.export.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from coremltools.converters.mil.mil import Var, types

from lowering.conversion.builder import Lowered, MilBuilder
from lowering.conversion.torch_ops.common import cast, filled, sizes_of
from lowering.conversion.torch_ops.padding import pad_by_sizes

aten = torch.ops.aten


def _pad(
    mb: MilBuilder, x: Var, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Lowered:
    """``pad`` is (before, after) for the last axis, then for the one before it, and so on."""
    if not all(isinstance(amount, int) for amount in pad):
        return pad_by_sizes(mb, x, pad, mode, value)
    is_float = types.is_float(x.dtype)
    if mode != "circular" and min(pad) >= 0 and is_float:
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
    if not is_float:
        return _joined(mb, x, both, value or 0)
    fill = cast(mb, value or 0, mb.result.dtype)
    return mb.pad(x=x, pad=both, mode=mode, constant_val=fill)


def _joined(mb: MilBuilder, x: Var, both: Sequence[int], value: float) -> Var:
    """Integers and booleans between constants, as MIL's ``pad`` takes floats only."""
    x = cast(mb, x, torch.int32)
    for axis in range(x.rank):
        sizes = sizes_of(mb, x)
        before, after = (
            [filled(mb, [*sizes[:axis], amount, *sizes[axis + 1 :]], value, torch.int32)]
            if amount
            else []
            for amount in both[2 * axis : 2 * axis + 2]
        )
        if before or after:
            x = mb.concat(values=[*before, x, *after], axis=axis)
    return x


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
    aten.grid_sampler_2d.default: _grid_sampler,
    aten.convolution.default: _convolution,
    aten.im2col.default: _im2col,
    aten.col2im.default: _col2im,
}
