"""Operators on images that Core AI lacks or computes otherwise than torch, written another way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import NotImplementedType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_aten = torch.ops.aten


def of_images() -> dict[Any, Callable[..., Any]]:
    """Operator to function."""
    resize = torch._decomp.decomposition_table[_aten.upsample_nearest2d.vec]
    return {
        _aten.avg_pool2d.default: _avg_pool2d,
        _aten.adaptive_max_pool2d.default: _adaptive_max_pool2d,
        _aten.convolution.default: _transposed_in_three,
        _aten.upsample_nearest2d.vec: _nearest_by(resize),
        _aten._native_batch_norm_legit_no_training.default: _batch_norm,
    }


def _nearest_by(resize: Callable[..., Any]) -> Callable[..., Tensor | NotImplementedType]:
    """Core AI's own resizing for whole factors, reads by index for the others."""

    def nearest(
        x: Tensor, output_size: Sequence[int] | None, scale_factors: Sequence[float] | None
    ) -> Tensor | NotImplementedType:
        if output_size is None:
            assert scale_factors is not None
            factors = list(scale_factors)
        else:
            factors = [new / old for new, old in zip(output_size, x.shape[2:], strict=True)]
        if all(float(factor).is_integer() for factor in factors):
            return NotImplemented
        found: Tensor = resize(x, output_size, scale_factors)
        return found

    return nearest


def _avg_pool2d(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor | NotImplementedType:
    """Pooling without padding of what is padded before, over the share that counts."""
    if not any(padding) and not ceil_mode:
        return NotImplemented
    kernel, pads = _pair(kernel_size), _pair(padding)
    steps = _pair(stride) if stride else kernel
    margins = []  # at the end of each axis, beside the padding
    for size, window, step, pad in zip(x.shape[2:], kernel, steps, pads, strict=True):
        left = (size + 2 * pad - window) % step
        # A window that would start in the padding at the end is no window.
        is_begun = (
            ceil_mode and left and size + pad > (size + 2 * pad - window) // step * step + step
        )
        margins.append(step - left if is_begun else 0)
    around = (pads[1], pads[1] + margins[1], pads[0], pads[0] + margins[0])
    shares = F.avg_pool2d(F.pad(x, around), kernel, steps, divisor_override=divisor_override)
    if divisor_override is not None:
        return shares
    ones = torch.full((1, 1, *x.shape[2:]), 1.0, dtype=x.dtype, device=x.device)
    inner, outer = ((pads[1], pads[1], pads[0], pads[0]), (0, margins[1], 0, margins[0]))
    ones = F.pad(ones, inner, value=1.0 if count_include_pad else 0.0)
    counted = F.avg_pool2d(F.pad(ones, outer), kernel, steps)
    return shares / counted


def _pair(numbers: Sequence[int]) -> tuple[int, int]:
    return (numbers[0], numbers[-1])


def _adaptive_max_pool2d(x: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Largest value of each window of ``x (..., H, W)``, and its place in (H, W) laid flat."""
    height, width = x.shape[-2:]
    values, places = [], []
    for top, bottom in _windows(height, output_size[0]):
        for left, right in _windows(width, output_size[1]):
            window = x[..., top:bottom, left:right].flatten(-2)
            values.append(window.amax(-1))
            place, across = window.argmax(-1), right - left
            row = torch.div(place, across, rounding_mode="floor")
            places.append((row + top) * width + (place - row * across + left))
    shape = (*x.shape[:-2], *output_size)
    return torch.stack(values, -1).reshape(shape), torch.stack(places, -1).reshape(shape)


def _windows(size: int, count: int) -> list[tuple[int, int]]:
    """Start and end of ``count`` windows that cover ``size`` elements, as torch divides them."""
    return [(n * size // count, -(-(n + 1) * size // count)) for n in range(count)]


def _transposed_in_three(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor | NotImplementedType:
    """A transposed convolution (B, C, D, H, W) as a plain one of an input with zeros between."""
    axes = x.dim() - 2
    reach = [d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding, strict=False)]
    if not transposed or axes != 3 or min(reach) < 0:
        return NotImplemented
    for axis, step in enumerate(stride, 2):
        x = _with_zeros_between(x, axis, step)
    around: list[int] = []
    for before, more in zip(reversed(reach), reversed(output_padding), strict=True):
        around += [before, before + more]
    kernel = weight.flip(*range(2, 2 + axes))  # (groups · C, O, ...) to (groups · O, C, ...)
    kernel = kernel.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    once = [1] * axes
    return F.conv3d(F.pad(x, around), kernel, bias, once, [0] * axes, list(dilation), groups)


def _with_zeros_between(x: Tensor, axis: int, step: int) -> Tensor:
    """``x`` with ``step - 1`` zeros between each two elements along ``axis``."""
    if step == 1:
        return x
    size = x.shape[axis]
    zeros = torch.zeros_like(x).unsqueeze(axis + 1)
    spread = torch.cat([x.unsqueeze(axis + 1), *[zeros] * (step - 1)], axis + 1)
    return spread.flatten(axis, axis + 1).narrow(axis, 0, (size - 1) * step + 1)


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor] | NotImplementedType:
    if weight is not None and bias is not None:
        return NotImplemented
    shape = [1, -1, *[1] * (x.dim() - 2)]
    scale = torch.rsqrt(variance + eps)
    normed = (x - mean.reshape(shape)) * scale.reshape(shape)
    if weight is not None:
        normed = normed * weight.reshape(shape)
    if bias is not None:
        normed = normed + bias.reshape(shape)
    none = x.new_empty((0,))
    return normed, none, none
