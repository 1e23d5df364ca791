"""How much larger than a result the terms are that it is summed of.

Float16 rounds the terms, so a result that is so many times smaller has lost as much of its digits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from frontend import ops

_aten = torch.ops.aten

_SUMS = frozenset({_aten.add, _aten.rsub, _aten.sub})
_TOTALS = frozenset({_aten.adaptive_avg_pool2d, _aten.avg_pool2d, _aten.mean, _aten.sum})
_CONVOLUTIONS = frozenset({_aten.conv1d, _aten.conv2d, _aten.conv3d, _aten.convolution})
# Positions of both factors and of what is added, among the arguments of a product.
_PRODUCTS: Mapping[object, tuple[int, int, int]] = {
    **dict.fromkeys(_CONVOLUTIONS, (0, 1, 2)),
    **dict.fromkeys((_aten.bmm, _aten.linear, _aten.matmul, _aten.mm), (0, 1, 2)),
    _aten.addmm: (1, 2, 0),
}
# Their arguments are the input, weight, bias, mean and variance.
_BATCH_NORMS = frozenset({_aten.batch_norm, _aten._native_batch_norm_legit_no_training})
_LAYER_NORMS = frozenset({_aten.layer_norm, _aten.native_layer_norm})


@dataclass(frozen=True)
class Seen:
    """What is known of a value.

    Attributes:
        size: the root of its mean square.
        top: the magnitude of its largest number.
        shape: its sizes.
        spread: the root of the mean of ``mean square / variance`` over what a norm of it takes
            together; 1.0 where no norm reads it.
    """

    size: float
    top: float
    shape: tuple[int, ...]
    spread: float = 1.0


def seen(value: Tensor, node: fx.Node) -> Seen:
    """What is known of ``value``, which has elements and which ``node`` computed."""
    size = float(torch.linalg.vector_norm(value)) / math.sqrt(value.numel())
    spreads = (_spread(value, user) for user in node.users if node in user.args[:1])
    return Seen(
        size=size,
        top=abs(float(value.max())),
        shape=tuple(value.shape),
        spread=max((spread for spread in spreads if spread is not None), default=1.0),
    )


def terms_over_result(node: fx.Node, size: float, known: Mapping[fx.Node, Seen]) -> float:
    """How many times as large as the result of ``node`` its terms are; 1.0 for what is no sum.

    Args:
        node: a call.
        size: the root of the mean square of its result, above zero.
        known: what it reads.
    """
    packet = getattr(node.target, "overloadpacket", node.target)
    read = [known[n] for n in node.all_input_nodes if n in known]
    if packet in _SUMS:
        return max((one.size for one in read), default=0.0) / size
    if packet in _TOTALS and read:
        count = math.prod(read[0].shape) / max(math.prod(_known_shape(node)), 1)
        terms = read[0].size * math.sqrt(count)
        return terms / (size if packet is _aten.sum else size * count)
    if packet in _PRODUCTS:
        one, other, added = (_argument(node, at, known) for at in _PRODUCTS[packet])
        if one is None or other is None or not one.shape or not other.shape:
            return 1.0
        count = math.prod(other.shape[1:]) if packet in _CONVOLUTIONS else one.shape[-1]
        terms = math.sqrt(count) * one.size * other.size
        return max(terms, added.size if added is not None else 0.0) / size
    if packet in _BATCH_NORMS:
        weight, mean, variance = (_argument(node, at, known) for at in (1, 3, 4))
        if mean is None or variance is None or not variance.size:
            return 1.0
        scale = (1.0 if weight is None else weight.size) / math.sqrt(variance.size)
        return mean.size * scale / size
    return read[0].spread if read and _groups(node) is not None else 1.0


def _known_shape(node: fx.Node) -> tuple[int, ...]:
    """The sizes of a result, those that are known before it is computed."""
    value = node.meta.get("val")
    shape = value.shape if isinstance(value, Tensor) else ()
    return tuple(size for size in shape if isinstance(size, int))


def _argument(node: fx.Node, at: int, known: Mapping[fx.Node, Seen]) -> Seen | None:
    given = node.args[at] if at < len(node.args) else None
    return known.get(given) if isinstance(given, fx.Node) else None


def _groups(norm: fx.Node) -> object:
    """Number of groups, or axes, that ``norm`` takes together; ``None`` where it centres none."""
    packet = getattr(norm.target, "overloadpacket", None)
    if packet is _aten.group_norm or packet in _LAYER_NORMS:
        return norm.args[1]
    return norm.args[1] if packet is ops.layer_norm.overloadpacket else None


def _spread(value: Tensor, norm: fx.Node) -> float | None:
    """What ``Seen.spread`` says, for the norm ``norm`` of ``value``."""
    groups = _groups(norm)
    if groups is None:
        return None
    if isinstance(groups, int):
        value = value.reshape(value.shape[0], groups, -1)
        axes = [2]
    else:
        assert isinstance(groups, list | tuple)
        is_own = norm.target is ops.layer_norm
        axes = [int(axis) for axis in groups] if is_own else [-1 - i for i in range(len(groups))]
    variance = value.var(axes, correction=0)
    varies = variance > 0
    if not bool(varies.any()):
        return None
    shares = value.square().mean(axes)[varies] / variance[varies]
    return math.sqrt(float(shares.mean()))
