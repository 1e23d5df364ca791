"""Convolution and its transpose, 1-D to 3-D."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from lowering.reference.binding import Ints, Semantics
from lowering.reference.semantics.windows import Pads, pad_spatial, symmetric, window_pads

_CONV = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
_CONV_TRANSPOSE = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """``x (B, C, ...)`` convolved with ``weight (O, C / groups, ...)``."""
    ones = (1,) * (x.ndim - 2)
    strides, dilations = strides or ones, dilations or ones
    pads = window_pads(pad_type, pad, x.shape[2:], weight.shape[2:], strides, dilations)
    padding = symmetric(pads)
    if padding is None:
        x, padding = pad_spatial(x, pads), [0] * len(pads)
    # Weights that meet many positions stay in fp16 until here, see ``kept``.
    return _CONV[x.ndim](x, weight.to(x.dtype), bias, strides, padding, dilations, groups)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Ints | None = None,
    output_shape: Ints | None = None,
    pad_type: str = "valid",
    strides: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """The gradient of ``conv``: ``weight`` is (C, O / groups, ...), ``pad`` crops the result."""
    ones = (1,) * (x.ndim - 2)
    strides, dilations = strides or ones, dilations or ones
    crops = transpose_crops(
        x.shape[2:], weight.shape[2:], pad, output_shape, pad_type, strides, dilations
    )
    padding = symmetric(crops)
    function = _CONV_TRANSPOSE[x.ndim]
    if padding is not None and all(item <= 0 for item in padding):
        padding = [-item for item in padding]
        return function(x, weight, bias, strides, padding, 0, groups, dilations)
    y = pad_spatial(function(x, weight, None, strides, 0, 0, groups, dilations), crops)
    return y if bias is None else y + bias.reshape(1, -1, *ones)


def transpose_crops(
    sizes: Sequence[int],
    kernel: Sequence[int],
    pad: Ints | None,
    output_shape: Ints | None,
    pad_type: str,
    strides: Ints,
    dilations: Ints,
) -> Pads:
    """Padding, mostly negative, that brings the full transposed convolution to its output size."""
    full = [
        (size - 1) * stride + (width - 1) * dilation + 1
        for size, stride, width, dilation in zip(sizes, strides, kernel, dilations, strict=True)
    ]
    if pad_type == "same":
        targets = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    else:
        pads = window_pads(pad_type, pad, sizes, kernel, strides, dilations)
        starts = [before for before, _ in pads]
        targets = [size - sum(pair) for size, pair in zip(full, pads, strict=True)]
    if output_shape is not None:
        targets = list(output_shape[2:])
    if pad_type == "same":
        starts = [max(0, size - target) // 2 for size, target in zip(full, targets, strict=True)]
    return [
        (-start, target + start - size)
        for start, target, size in zip(starts, targets, full, strict=True)
    ]


TABLE: dict[str, Semantics] = {"conv": conv, "conv_transpose": conv_transpose}
