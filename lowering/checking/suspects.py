"""Whether a program's numbers must be seen in float16 to know what becomes of them.

Running a lowered program in two precisions takes longer than all else that ``check`` does with
values. Most networks need no such run: their operators keep relative errors small whatever they are
given, and their numbers are neither large nor small. Anything else is suspect.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from frontend import ops
from lowering.checking.cancelling import Seen, seen, terms_over_result
from lowering.checking.values import FILLS, masks

_aten = torch.ops.aten

# Relative errors of the results are about those of the operands.
_TAME = frozenset(
    {
        # They move numbers, choose among them, or make them.
        _aten._to_copy, _aten.alias, _aten.amax, _aten.amin, _aten.arange, _aten.cat, _aten.clamp,
        _aten.clamp_max, _aten.clamp_min, _aten.clone, _aten.constant_pad_nd, _aten.copy,
        _aten.detach, _aten.embedding, _aten.expand, _aten.flatten, _aten.flip, _aten.full,
        _aten.full_like, _aten.gather, _aten.index, _aten.index_select, _aten.masked_fill,
        _aten.max, _aten.max_pool2d, _aten.maximum, _aten.min, _aten.minimum, _aten.new_full,
        _aten.new_zeros, _aten.ones, _aten.pad, _aten.permute, _aten.pixel_shuffle,
        _aten.pixel_unshuffle, _aten.repeat, _aten.reshape, _aten.roll, _aten.scalar_tensor,
        _aten.select, _aten.slice, _aten.slice_scatter, _aten.split, _aten.split_with_sizes,
        _aten.squeeze, _aten.stack, _aten.transpose, _aten.tril, _aten.triu, _aten.unbind,
        _aten.unfold, _aten.unsqueeze, _aten.upsample_nearest2d, _aten.view, _aten.where,
        _aten.zeros, _aten.zeros_like, ops.slice_update.overloadpacket,
        # Sums, products and means, whose terms are looked at.
        _aten.abs, _aten.adaptive_avg_pool2d, _aten.add, _aten.addmm, _aten.avg_pool2d, _aten.bmm,
        _aten.conv1d, _aten.conv2d, _aten.conv3d, _aten.conv_transpose2d, _aten.convolution,
        _aten.einsum, _aten.linear, _aten.matmul, _aten.mean, _aten.mm, _aten.mul, _aten.neg,
        _aten.rsub, _aten.sub, _aten.sum, _aten.upsample_bilinear2d,
        # Flat, or as steep as a line.
        _aten.elu, _aten.gelu, _aten.hardsigmoid, _aten.hardswish, _aten.hardtanh,
        _aten.leaky_relu, _aten.prelu, _aten.relu, _aten.sigmoid, _aten.silu, _aten.softmax,
        _aten._softmax, _aten.scaled_dot_product_attention, _aten.tanh,
        # Norms, whose input is looked at.
        _aten.batch_norm, _aten._native_batch_norm_legit_no_training, _aten.group_norm,
        _aten.layer_norm, _aten.native_layer_norm, ops.layer_norm.overloadpacket,
        ops.rms_norm.overloadpacket,
    }
)  # fmt: skip
_SOFTMAXES = frozenset({_aten.softmax, _aten._softmax, _aten.scaled_dot_product_attention})
_NORMS = frozenset(
    {
        _aten.group_norm, _aten.layer_norm, _aten.native_layer_norm, ops.layer_norm.overloadpacket,
        ops.rms_norm.overloadpacket,
    }
)  # fmt: skip
# Within these numbers are neither large nor small; beyond the last they stand for infinity.
# Masks of -1e4, which Apple's guide for transformers has, are within.
_SMALL, _LARGE, _INFINITE = 1e-3, 1.6e4, 1e30
# A sum that is so much smaller than what it is made of has lost as many digits; seven times the
# rounding of float16 is what verify allows. The same of what a norm leaves of its input.
_CANCELS = 4.0
# Scores so large are 2**-7 apart, which a softmax passes on.
_SCORES = 16.0
# The root of a mean square from which on a norm keeps its digits, whatever its eps: float16's
# smallest number in the place of one is a thousandth of the square.
_NORM_INPUT = 1e-2


class Suspects:
    """Sees the values of a program in order.

    Attributes:
        found: a value or operator is suspect.
    """

    def __init__(self) -> None:
        self._known: dict[fx.Node, Seen] = {}
        self.found = False

    def see(self, node: fx.Node, value: object) -> None:
        """Looks at ``value``, which ``node`` computed."""
        if isinstance(value, tuple) and value:  # a norm's result comes before its statistics
            value = value[0]
        if self.found or not isinstance(value, Tensor) or not value.is_floating_point():
            return
        if not value.numel():
            return
        self._known[node] = seen(value, node)
        if node.op == "call_function":
            low, high = (float(end) for end in value.aminmax())
            self.found = self._is_suspect(node, self._known[node].size, max(abs(low), abs(high)))

    def _is_suspect(self, node: fx.Node, size: float, peak: float) -> bool:
        packet = getattr(node.target, "overloadpacket", node.target)
        if packet not in _TAME and getattr(packet, "__name__", "") != "getitem":
            return True
        read = [self._known[n] for n in node.all_input_nodes if n in self._known]
        marks = packet in FILLS or masks(node.args) or peak > _INFINITE
        if not marks and (peak > _LARGE or 0 < peak < _SMALL):
            return True
        finite = size > 0 and all(one.size < _INFINITE for one in read)
        if finite and terms_over_result(node, size, self._known) > _CANCELS:
            return True
        if packet in _SOFTMAXES:
            # The highest scores count: the others may be masked.
            return any(_SCORES < one.top < _INFINITE for one in read)
        return packet in _NORMS and bool(read) and read[0].size < _NORM_INPUT
