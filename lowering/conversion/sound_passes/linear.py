"""Guards of the passes that fold scales and shifts into convolutions and linears."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Block, Operation
from coremltools.converters.mil.mil.passes.defs import optimize_conv, optimize_linear

from lowering.conversion.sound_passes.guards import Guard, constant_operand, is_output

Theirs = Callable[..., Any]


def _conv_scale(theirs: Theirs, conv: Operation, scale: Operation) -> bool:
    """A number divided by a convolution is no scaled convolution."""
    divides_it = scale.op_type == "real_div" and scale.x is not conv.outputs[0]
    if divides_it or not _keeps_shape(conv, scale) or not _known_bias(conv):
        return False
    # The pass can turn weights of a transposed convolution with up to four axes only.
    factor = constant_operand(scale)
    several = factor is not None and np.size(factor.val) > 1
    if conv.op_type == "conv_transpose" and conv.weight.rank > 4 and several:
        return False
    return bool(theirs(conv, scale))


def _conv_bias(theirs: Theirs, conv: Operation, add: Operation) -> bool:
    """Of a subtrahend the pass negates the array itself, which others read: the model's buffer."""
    if add.op_type == "sub" or not _keeps_shape(conv, add) or not _known_bias(conv):
        return False
    return bool(theirs(conv, add))


def _conv_bias_behind_transpose(theirs: Theirs, conv: Operation, block: Block) -> bool:
    if conv.op_type not in ("conv", "conv_transpose"):
        return False
    if conv.weight.val is None or not _known_bias(conv):
        return False
    for transpose in conv.outputs[0].child_ops:
        for add in transpose.outputs[0].child_ops if transpose.op_type == "transpose" else ():
            if add.op_type not in ("add", "sub"):
                return False
            bias = constant_operand(add)
            channel = list(transpose.perm.val).index(1) - transpose.outputs[0].rank
            named = bias is not None and (np.size(bias.val) == 1 or np.ndim(bias.val) >= -channel)
            if not named or not _keeps_shape(transpose, add):
                return False
    return bool(theirs(conv, block))


def _conv1d(theirs: Theirs, expand: Operation, conv: Operation, *rest: object) -> bool:
    return _has_one_row(conv) and bool(theirs(expand, conv, *rest))


def _conv1d_channels_last(
    theirs: Theirs, expand: Operation, transpose: Operation, conv: Operation, *rest: object
) -> bool:
    return _has_one_row(conv) and bool(theirs(expand, transpose, conv, *rest))


def _has_one_row(conv: Operation) -> bool:
    """Only what a kernel of one row does to an image of one row is a convolution in 1-D."""
    padded = conv.pad_type.val == "custom" and any(conv.pad.val[:2])
    return bool(conv.weight.shape[-2] == 1 and not padded)


def _pad_before_conv(theirs: Theirs, pad: Operation, transposes: Any, block: Block) -> bool:
    """The padding moves behind the transpose: constant, and with as many axes as it needs."""
    if pad.pad.val is None or pad.mode.val != "constant":
        return False
    amounts = np.reshape(pad.pad.val, (-1, 2))
    rank = pad.x.rank
    whole = np.concatenate([np.zeros((rank - len(amounts), 2), amounts.dtype), amounts])
    unnamed = rank - len(amounts)
    moved = [whole[np.asarray(transpose.perm.val)][:unnamed] for transpose in transposes]
    return not any(part.any() for part in moved) and bool(theirs(pad, transposes, block))


def _linear_bias(theirs: Theirs, linear: Operation, add: Operation, block: Block) -> bool:
    bias = constant_operand(add)
    if bias is None or not np.ndim(bias.val) or not _keeps_shape(linear, add):
        return False
    return bool(theirs(linear, add, block))


def _matmul_bias(
    theirs: Theirs, self: object, matmul: Operation, add: Operation, block: Block
) -> bool | None:
    """With its weight on the left the result has its columns last, and these are no outputs."""
    on_left = matmul.x.val is not None
    subtracted_from = add.op_type == "sub" and add.x is not matmul.outputs[0]
    if on_left or subtracted_from or is_output(matmul) or not _keeps_shape(matmul, add):
        return False
    return bool(theirs(self, matmul, add, block))


def _keeps_shape(op: Operation, after: Operation) -> bool:
    """What the constant of ``after`` broadcasts to is no bigger than the result of ``op``."""
    return bool(op.outputs[0].shape == after.outputs[0].shape)


def _known_bias(conv: Operation) -> bool:
    return conv.bias is None or conv.bias.val is not None


TABLE = (
    Guard(optimize_conv.fuse_conv_scale, "_try_to_transform", _conv_scale),
    Guard(optimize_conv.fuse_conv_bias, "_try_to_transform", _conv_bias),
    Guard(
        optimize_conv.fuse_conv_bias,
        "_try_to_transform_transpose_pattern",
        _conv_bias_behind_transpose,
    ),
    Guard(optimize_conv.compose_conv1d, "_try_apply_transform", _conv1d),
    Guard(optimize_conv.compose_conv1d, "_try_apply_transform_channel_last", _conv1d_channels_last),
    Guard(optimize_conv.fuse_pad_conv, "_try_to_transform", _pad_before_conv),
    Guard(optimize_linear.fuse_linear_bias, "_try_to_transform", _linear_bias),
    Guard(optimize_linear.fuse_matmul_weight_bias, "_try_to_transform", _matmul_bias),
)
