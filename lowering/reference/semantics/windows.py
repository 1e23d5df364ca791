"""Padding of sliding windows, shared by convolution and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor

from lowering.reference.errors import ExecutionError

# Per spatial dimension: elements before and after.
Pads: TypeAlias = list[tuple[int, int]]


def window_pads(
    pad_type: str,
    pad: Sequence[int] | None,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> Pads:
    """Padding for MIL's ``pad_type``: ``valid``, ``custom``, ``same`` or ``same_lower``."""
    pad_type = pad_type.lower()
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    if pad_type == "custom":
        pad = pad or (0,) * (2 * len(sizes))
        return list(zip(pad[0::2], pad[1::2], strict=True))
    if pad_type not in ("same", "same_lower"):
        raise ExecutionError("unknown pad_type", found=pad_type)
    pads = []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        span = (width - 1) * dilation + 1
        total = max(0, (-(-size // stride) - 1) * stride + span - size)
        small, large = total // 2, total - total // 2
        pads.append((small, large) if pad_type == "same" else (large, small))
    return pads


def symmetric(pads: Pads) -> list[int] | None:
    """One padding per dimension when both ends agree, else ``None``."""
    return [before for before, _ in pads] if all(a == b for a, b in pads) else None


def pad_spatial(x: Tensor, pads: Pads, value: float = 0.0) -> Tensor:
    """``x (B, C, ...)`` with its spatial dimensions padded; negative padding crops."""
    flat = [item for pair in reversed(pads) for item in pair]
    return F.pad(x, flat, value=value) if any(flat) else x
