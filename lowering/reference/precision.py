"""When a value is rounded, and how."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from frontend.errors import InputError
from lowering.package.dtypes import FP16, DType


class Precision(Enum):
    """How fp16 values of a program are computed.

    FP16: each op computes in fp32 and rounds once to the declared type.
    STRICT: as FP16, and sums inside an op (matmul, conv, reductions, norms) also round after each
        addition.
    FP32: declared fp16 is ignored and nothing is rounded; tells errors of logic from rounding.
    """

    FP16 = "fp16"
    STRICT = "strict"
    FP32 = "fp32"

    @classmethod
    def of(cls, name: str | Precision) -> Precision:
        """The precision called ``name``.

        Raises:
            InputError: there is no such precision.
        """
        try:
            return cls(name)
        except ValueError as error:
            names = ", ".join(item.value for item in cls)
            raise InputError(
                "unknown precision", expected=f"one of {names}", found=repr(name)
            ) from error


# Elements of a weight that are rounded at a time.
_PART = 1 << 20

# Ops whose float results are elements of their inputs or small integers: fp16 in, fp16 out.
EXACT_OPS = frozenset(
    {
        "abs", "band_part", "batch_to_space", "ceil", "clip", "concat",
        "constexpr_lut_to_dense", "constexpr_lut_to_sparse", "constexpr_sparse_to_dense",
        "crop", "depth_to_space",
        "expand_dims", "fill", "fill_like", "flatten2d", "floor", "gather", "gather_along_axis",
        "gather_nd", "identity", "list_gather", "list_read", "max_pool", "maximum", "minimum",
        "non_maximum_suppression", "one_hot", "pad", "pixel_shuffle", "pixel_unshuffle",
        "read_state", "reduce_max", "reduce_min", "relu", "relu6", "reshape", "reshape_like",
        "resize_nearest_neighbor", "reverse", "reverse_sequence", "round", "select", "sign",
        "slice_by_index", "slice_by_size", "slice_update", "sliding_windows", "space_to_batch",
        "space_to_depth", "split", "squeeze", "stack", "thresholded_relu", "tile", "topk",
        "transpose", "upsample_nearest_neighbor",
    }
)  # fmt: skip

# Ops whose results are always memory of their own, never an input or a view of one: they can be
# rounded in place.
OWN_RESULTS = frozenset(
    {
        "add", "avg_pool", "batch_norm", "conv", "exp", "gelu", "instance_norm", "layer_norm",
        "linear", "mul", "scaled_dot_product_attention", "sigmoid", "silu", "softmax", "sub",
        "tanh",
    }
)  # fmt: skip


def needs_rounding(op_type: str, dtype: DType, precision: Precision) -> bool:
    """Whether the result of an op of ``op_type``, declared ``dtype``, is to be rounded."""
    return dtype is FP16 and precision is not Precision.FP32 and op_type not in EXACT_OPS


def round_to_fp16(value: Tensor) -> Tensor:
    """``value`` (float32) with each element rounded to the nearest fp16 number, ties to even."""
    return value.half().float()  # ``to`` takes a microsecond to read its arguments (*measured*)


def rounded_to(value: object, dtype: DType, rounds: bool) -> object:
    """``value`` in the carrier of ``dtype``, rounded if ``rounds``."""
    if not isinstance(value, Tensor):
        return value
    if value.dtype is not dtype.carrier:
        value = value.to(dtype.carrier)
    return round_to_fp16(value) if rounds else value


def rounded_weight(value: object, op_type: str, dtype: DType, precision: Precision) -> object:
    """What the decoder ``op_type`` made of a weight, as :func:`rounded_to` has it.

    Numbers that were made for it are rounded where they lie: of a large weight there is one copy.
    """
    rounds = needs_rounding(op_type, dtype, precision)
    fresh = isinstance(value, Tensor) and value.dtype is torch.float32 and value.is_contiguous()
    if not (rounds and fresh) or op_type == "constexpr_cast":
        return rounded_to(value, dtype, rounds)
    assert isinstance(value, Tensor)
    for part in value.view(-1).split(_PART):
        part.copy_(part.to(torch.float16))
    return value
