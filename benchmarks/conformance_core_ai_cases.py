"""Functions at their edges for ``benchmarks.conformance_core_ai``, and what is known of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F

from benchmarks.torch_release import Function

# The two that are held against torch: the package in our interpreter, the asset in Apple's runtime.
BACK_ENDS = ("package", "Core AI")
_INF, _NAN = math.inf, math.nan


def edges() -> Iterator[tuple[str, Function]]:
    """Where back ends differ from torch elsewhere: zeros, infinities, ties, casts, odd sizes."""
    yield from _EDGES.items()


def _near_zero(x: torch.Tensor) -> torch.Tensor:
    """``x`` (B, N, C) with a zero, and a negative number, in each row."""
    return x * torch.tensor([0.0, 1.0, -1.0, 1.0])


_EDGES: Mapping[str, Function] = {
    "nearest to another size": lambda x, y, image: F.interpolate(image, (5, 11)),
    "nearest by 1.7": lambda x, y, image: F.interpolate(image, scale_factor=1.7),
    "nearest-exact by 1.7": lambda x, y, image: F.interpolate(
        image, scale_factor=1.7, mode="nearest-exact"
    ),
    "bilinear by 1.7": lambda x, y, image: F.interpolate(image, scale_factor=1.7, mode="bilinear"),
    "bilinear, corners": lambda x, y, image: F.interpolate(
        image, (5, 11), mode="bilinear", align_corners=True
    ),
    "avg_pool without padding": lambda x, y, image: F.avg_pool2d(
        image, 3, 1, 1, count_include_pad=False
    ),
    "avg_pool ceil": lambda x, y, image: F.avg_pool2d(image, 3, 2, 1, ceil_mode=True),
    "max_pool ceil": lambda x, y, image: F.max_pool2d(image, 3, 2, 1, ceil_mode=True),
    "max_pool dilated": lambda x, y, image: F.max_pool2d(image, 2, 1, dilation=2),
    "arange of tenths": lambda x, y, image: torch.arange(0, 0.4, 0.1) + x,
    "remainder of one": lambda x, y, image: (x * 10) % 1.0,
    "remainder of negatives": lambda x, y, image: (x - 0.5) % 0.3,
    "fmod of negatives": lambda x, y, image: torch.fmod(x - 0.5, 0.3),
    "floor division of negatives": lambda x, y, image: torch.floor_divide(x - 0.5, 0.3),
    "round half": lambda x, y, image: torch.round((x * 8).floor() / 2 - 2),
    "log of zero": lambda x, y, image: torch.log(_near_zero(x).abs()),
    "log_softmax with -inf": lambda x, y, image: F.log_softmax(
        x + torch.tensor([0.0, -_INF, 0.0, 0.0]), -1
    ),
    "rsqrt of zero": lambda x, y, image: torch.rsqrt(_near_zero(x).abs()),
    "reciprocal of zero": lambda x, y, image: torch.reciprocal(_near_zero(x)),
    "sqrt of negatives": lambda x, y, image: torch.sqrt(_near_zero(x)),
    "pow of negatives": lambda x, y, image: _near_zero(x) ** 3,
    "zero to the zero": lambda x, y, image: _near_zero(x) ** 0.0,
    "maximum of NaN": lambda x, y, image: torch.maximum(x * torch.tensor([_NAN, 1, 1, 1]), y),
    "clamp of NaN": lambda x, y, image: (x * torch.tensor([_NAN, 1, 1, 1])).clamp(0.2, 0.6),
    "argmax with NaN": lambda x, y, image: (x * torch.tensor([1, _NAN, 1, 1])).argmax(-1),
    "amax with NaN": lambda x, y, image: (x * torch.tensor([1, _NAN, 1, 1])).amax(-1),
    "softmax of -inf alone": lambda x, y, image: torch.softmax(x - _INF, -1),
    "attention without a key": lambda x, y, image: F.scaled_dot_product_attention(
        x, y, y, attn_mask=torch.tensor([[True] * 3, [False] * 3, [True, False, True]])
    ),
    "attention without a key, -inf": lambda x, y, image: F.scaled_dot_product_attention(
        x, y, y, attn_mask=torch.tensor([[0.0] * 3, [-_INF] * 3, [0.0, -_INF, 0.0]])
    ),
    "to int32 beyond it": lambda x, y, image: (x * 0 + 3e9).to(torch.int32),
    "to uint8 beyond it": lambda x, y, image: (x * 0 + 300).to(torch.uint8).float(),
    "layer_norm of equals": lambda x, y, image: F.layer_norm(x * 0 + 3.3, (4,)),
    "layer_norm about 1e6": lambda x, y, image: F.layer_norm(x + 1e6, (4,)),
    "group_norm about 1e4": lambda x, y, image: F.group_norm(image + 1e4, 2),
    "expm1 of little": lambda x, y, image: torch.expm1(x * 1e-7),
    "log1p of little": lambda x, y, image: torch.log1p(x * 1e-9),
    "normalize of large": lambda x, y, image: F.normalize(x * 1e20, dim=-1),
    "topk of equals": lambda x, y, image: (x * 2).round().topk(3).indices,
    "argsort of equals": lambda x, y, image: (x * 2).round().argsort(dim=-1, stable=True),
    "gather of negatives": lambda x, y, image: x[:, [-1, 0]],
    "scatter twice": lambda x, y, image: torch.zeros(4).index_put(
        (torch.tensor([1, 1, 3]),), x[0, :, 0], accumulate=True
    ),
    "int overflow": lambda x, y, image: ((x * 4).to(torch.int32) + 2147483640) + 10,
    "int division of negatives": lambda x, y, image: torch.div(
        (x * 20 - 10).to(torch.int32), 3, rounding_mode="floor"
    ),
    "int truncated division": lambda x, y, image: torch.div(
        (x * 20 - 10).to(torch.int32), 3, rounding_mode="trunc"
    ),
    "conv reflect": lambda x, y, image: F.conv2d(
        F.pad(image, (1, 1, 1, 1), mode="reflect"), image[:, :, :3, :3]
    ),
    "conv_transpose with more": lambda x, y, image: F.conv_transpose2d(
        image, image[0, :, None, :3, :3], stride=2, output_padding=1
    ),
    "gelu tanh": lambda x, y, image: F.gelu(x - 0.5, approximate="tanh"),
    "erf far out": lambda x, y, image: torch.erf((x - 0.5) * 20),
}

# What differs by name of the function: who differs or refuses, and why.
_BOTH, _REFUSES = "package, Core AI", "Core AI refuses"
_NEITHER = ("package refuses, Core AI refuses", "neither has it, and nothing takes it apart")
KNOWN: Mapping[str, tuple[str, str]] = {
    "digamma": _NEITHER,
    "i0": _NEITHER,
    "lgamma": _NEITHER,
    "nextafter": _NEITHER,
    "rfft": (_NEITHER[0], "complex numbers are a pass's, and none runs here"),
    "inverse": (_REFUSES, "nothing takes an inverse apart for it"),
    "argmax with NaN": (BACK_ENDS[1], "the largest number's place; torch has the NaN's"),
    "attention without a key": (_BOTH, "both average the values; torch gives zeros"),
    "attention without a key, -inf": (_BOTH, "both have no number there; torch gives zeros"),
    "to int32 beyond it": (_BOTH, "both saturate; torch, on x86, has the lowest number"),
    "to uint8 beyond it": (BACK_ENDS[1], "it saturates; torch wraps"),
    "topk of equals": (_BOTH, "both take the lower place first; torch leaves the order open"),
    "layer_norm about 1e6": (BACK_ENDS[1], "its mean and variance are rounded otherwise"),
    "group_norm about 1e4": (BACK_ENDS[1], "its mean and variance are rounded otherwise"),
}
