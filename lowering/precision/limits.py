"""The limits that values are held against, each with what it rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from frontend import fp16

OVERFLOW = fp16.MAX
"""Largest finite float16; *documented*: IEEE 754."""

VANISHES = fp16.NORMAL
"""Below it float16 loses digits, and hardware may take the number for 0. That the ANE of iOS does
is *reported*: john-rocky/CoreML-LLM, 2026-04-24, ``rsqrt`` of a subnormal mean was infinite."""

ACCUMULATOR = 2.0**15
"""Where the sums inside of convolutions and products end on M4 and M6, which keep them as Q15.16;
*reported*: 751K/Apple-Neural-Engine-Microarchitecture-Study-M6, measured there. M1 is said to end
there too, M5 not to."""

LOST = 2e-3
"""From this relative error (L2 norm) on a value has lost digits: what ``verify`` allows any float16
package, four roundings."""

GROWTH = 2.0
"""An operator is where digits are lost when its result is so many times as wrong as all it reads;
*assumed*."""

OUTPUT = 1e-2
"""An output that is so far off is told of though no operator alone loses digits: what ``verify``
allows where torch has no float16 result to compare with."""

INTEGERS_END = 4095
"""Where an integer input is tried that no table, contract or clamp bounds; *assumed*: contexts of
4,096 positions and the 1,000 steps of diffusion models (*documented*: diffusers' DDPMScheduler,
``num_train_timesteps=1000``) are within."""

SUMS_OF_PRODUCTS = frozenset({"conv", "conv_transpose", "einsum", "linear", "matmul"})
"""MIL operators with an accumulator of their own."""

# What an operator that loses digits is about, and what helps, by MIL type.
_ANGLES = (
    "an angle",
    "compute angles in float32, or gather sines and cosines from a table made in float32",
)
_COORDINATES = (
    "a coordinate",
    "give places relative to the pixel they belong to, or keep the coordinates in float32",
)
_DIFFERENCE = (
    "a difference of numbers that are much larger",
    "subtract what they have in common first, or keep the operator in float32",
)
_EXPONENT = ("an exponent", "scale before the product that makes it, or keep it in float32")
_LOGARITHM = (
    "a logarithm of what is near 1, or of less than float16 has",
    "use log_softmax, log1p or logsumexp, or keep the operator in float32",
)
_NORM = (
    "a norm whose eps or variance is below what float16 has",
    "use eps=1e-5 or more, or scale its input up",
)
_SUM = ("a running sum", "sum in blocks, or keep the operator in float32")
_OTHER = ("a number", 'keep the operator in float32: convert(..., precision="safe")')
KINDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(("sin", "cos", "tan"), _ANGLES),
        **dict.fromkeys(("resample", "crop_resize"), _COORDINATES),
        **dict.fromkeys(("add", "sub"), _DIFFERENCE),
        **dict.fromkeys(("exp", "exp2", "softmax", "pow"), _EXPONENT),
        "log": _LOGARITHM,
        **dict.fromkeys(("layer_norm", "instance_norm", "batch_norm", "l2_norm"), _NORM),
        "cumsum": _SUM,
    }
)


def kind_of(op_type: str) -> tuple[str, str]:
    """What digits are lost of in an operator of this MIL type, and what helps."""
    return KINDS.get(op_type, _OTHER)


def spacing(size: float) -> float:
    """How far apart float16's numbers are around ``size``, which is above zero."""
    return 2.0 * fp16.ROUNDING * 2.0 ** math.floor(math.log2(size))
