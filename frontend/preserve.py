"""The decomposition table: torch's default, less the composites that are worth keeping whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from frontend.decompositions import decompositions
from frontend.errors import CaptureError

# operator -> why it stays whole. Each is one op (or one well-known idiom) of MIL, so that
# decomposing it would cost operators, fp16 accuracy or a pass that recognises it again.
# Convolutions are not here on purpose: they all become aten.convolution, one spelling.
PRESERVED: Mapping[str, str] = {
    "linear.default": "a 1x1 convolution or a MIL linear; the main target of the rewrites",
    "matmul.default": "broadcasts in MIL; decomposed it becomes expand, view and bmm",
    "einsum.default": "per-head attention is written with it",
    "scaled_dot_product_attention.default": "attention passes choose its form",
    "layer_norm.default": "one MIL op",
    "rms_norm.default": "its fp16-safe form is chosen by a pass",
    "group_norm.default": "kept for one lowering with a stable reduction",
    "instance_norm.default": "one MIL op",
    "softmax.int": "one MIL op",
    "log_softmax.int": "its lowering takes no logarithm of a softmax",
    "silu.default": "one MIL op",
    "mish.default": "one short idiom of MIL",
    "hardswish.default": "one short idiom of MIL",
    "hardsigmoid.default": "one MIL op",
    "softplus.default": "one MIL op",
    "celu.default": "one short idiom of MIL",
    "selu.default": "one short idiom of MIL",
    "prelu.default": "one MIL op",
    "glu.default": "split and sigmoid; decomposed it slices twice",
    "pixel_shuffle.default": "one MIL op; decomposed it reaches rank 6",
    "pixel_unshuffle.default": "one MIL op; decomposed it reaches rank 6",
    "upsample_nearest1d.vec": "one MIL op; decomposed it gathers by index",
    "upsample_nearest2d.vec": "one MIL op; decomposed it gathers by index",
    "upsample_nearest2d.default": "one MIL op; decomposed it gathers by index",
    "upsample_bilinear2d.vec": "one MIL op; decomposed it gathers by index",
    "upsample_bilinear2d.default": "one MIL op; decomposed it gathers by index",
    "upsample_linear1d.vec": "one MIL op; decomposed it gathers by index",
    "upsample_bicubic2d.vec": "two products with constant matrices; decomposed it gathers by index",
    "upsample_bicubic2d.default": "the same",
    "im2col.default": "one grouped convolution; decomposed it gathers at rank 6",
    "col2im.default": "one grouped transposed convolution; decomposed it writes at rank 6",
    "adaptive_avg_pool1d.default": "a pool or a mean",
    "adaptive_avg_pool2d.default": "a pool or a mean",
    "adaptive_max_pool1d.default": "a pool",
    "split.Tensor": "one MIL op; decomposed it becomes a slice per part",
    "unbind.int": "one MIL op; decomposed it becomes a select per part",
    "stack.default": "one MIL op",
    "select_scatter.default": "writes one place; decomposed it chooses over the whole tensor",
    "lstm.input": "one MIL op per layer; decomposed it unrolls over time",
    "gru.input": "one MIL op per layer; decomposed it unrolls over time",
    "rnn_tanh.input": "one MIL op per layer; decomposed it unrolls over time",
    "rnn_relu.input": "one MIL op per layer; decomposed it unrolls over time",
    "logsumexp.default": "one MIL op, stable in fp16",
    "std.correction": "keeps the correction explicit for one stable lowering",
    "var.correction": "keeps the correction explicit for one stable lowering",
    "tile.default": "one MIL op",
    "pad.default": "one MIL op for every mode",
    "one_hot.default": "one MIL op",
    # Taken apart by default from torch 2.14 on.
    "linalg_vector_norm.default": "one MIL op; decomposed, its squares overflow float16",
}


def preserved_ops() -> dict[torch._ops.OpOverload, str]:
    """Preserved operators with the reason for each.

    Raises:
        CaptureError: the installed torch has no operator of a preserved name.
    """
    found: dict[torch._ops.OpOverload, str] = {}
    for name, reason in PRESERVED.items():
        packet, _, overload = name.partition(".")
        try:
            found[getattr(getattr(torch.ops.aten, packet), overload)] = reason
        except AttributeError as error:
            raise CaptureError(
                "a composite operator that ane-passes keeps whole is gone from this torch",
                op=f"aten.{name}",
                expected="torch 2.13",
                found=f"torch {torch.__version__}",
                hint="install a torch release within the range in pyproject.toml",
            ) from error
    return found


def decomposition_table() -> dict[torch._ops.OperatorBase, Callable[..., Any]]:
    """Torch's export decompositions and ours, without the preserved operators."""
    table = torch.export.default_decompositions()
    for operator, decomposition in decompositions().items():
        table[operator] = decomposition
    for op in preserved_ops():
        table.pop(op, None)
    return table
