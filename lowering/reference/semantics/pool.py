"""Pooling, 1-D to 3-D."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lowering.reference.binding import Ints, Semantics
from lowering.reference.semantics.windows import Pads, pad_spatial, symmetric, window_pads

_AVERAGE = {3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}
_MAX = {3: F.max_pool1d, 4: F.max_pool2d, 5: F.max_pool3d}


def max_pool(
    x: Tensor,
    kernel_sizes: Ints,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Largest element per window of ``x (B, C, ...)``; padding never wins."""
    strides, pads = layout(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    padding = symmetric(pads)
    if padding is None or any(2 * p > k for p, k in zip(padding, kernel_sizes, strict=True)):
        x, padding = pad_spatial(x, pads, -math.inf), [0] * len(pads)
    return _MAX[x.ndim](x, kernel_sizes, strides, padding)


def avg_pool(
    x: Tensor,
    kernel_sizes: Ints,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    """Mean per window; padding counts as zeros, or not at all if it is excluded."""
    strides, pads = layout(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    mean = _AVERAGE[x.ndim](pad_spatial(x, pads), kernel_sizes, strides)
    if not exclude_padding_from_average or not any(any(pair) for pair in pads):
        return mean
    counts = divisor(x, kernel_sizes, strides, pads, exclude_padding=True)
    return mean * math.prod(kernel_sizes) / counts


def divisor(
    x: Tensor, kernel_sizes: Ints, strides: Ints, pads: Pads, exclude_padding: bool
) -> Tensor:
    """How many elements count in each window of ``x (B, C, ...)``: (1, 1, ...) or a scalar."""
    volume = torch.tensor(float(math.prod(kernel_sizes)))
    if not exclude_padding:
        return volume
    inside = pad_spatial(torch.ones((1, 1, *x.shape[2:])), pads)
    return _AVERAGE[x.ndim](inside, kernel_sizes, strides) * volume


def l2_pool(
    x: Tensor,
    kernel_sizes: Ints,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Euclidean norm per window."""
    strides, pads = layout(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    mean = _AVERAGE[x.ndim](pad_spatial(x * x, pads), kernel_sizes, strides)
    return torch.sqrt(mean * math.prod(kernel_sizes))


def layout(
    x: Tensor,
    kernel: Ints,
    strides: Ints | None,
    pad_type: str,
    pad: Ints | None,
    ceil_mode: bool,
) -> tuple[Ints, Pads]:
    """Strides, and padding that makes every window a whole one."""
    sizes = x.shape[2:]
    ones = (1,) * len(sizes)
    strides = strides or ones
    pads = window_pads(pad_type, pad, sizes, kernel, strides, ones)
    if not ceil_mode:
        return strides, pads
    widened = []
    for size, width, stride, (before, after) in zip(sizes, kernel, strides, pads, strict=True):
        padded = size + before + after
        count = -(-(padded - width) // stride) + 1
        # The last window must start inside the input or the padding before it.
        if (count - 1) * stride >= size + before and before + after > 0:
            count -= 1
        widened.append((before, after + max(0, (count - 1) * stride + width - padded)))
    return strides, widened


TABLE: dict[str, Semantics] = {"avg_pool": avg_pool, "l2_pool": l2_pool, "max_pool": max_pool}
