"""Activations and norms whose keyword or optional arguments coremltools 9.0 drops.

``gelu`` loses its tanh form in the torch.export route (apple/coremltools#2863).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from coremltools.converters.mil.mil import Var, types

from lowering.conversion.builder import MilBuilder, Operand
from lowering.conversion.torch_ops.common import cast

aten = torch.ops.aten

# torch's softplus is linear above this value of beta · x, where it is so to float32 anyway.
_SOFTPLUS_THRESHOLD = 20


def _gelu(mb: MilBuilder, x: Var, *, approximate: str = "none") -> Var:
    return mb.gelu(x=x, mode="EXACT" if approximate == "none" else "TANH_APPROXIMATION")


def _clip(mb: MilBuilder, x: Var, low: Operand = -1, high: Operand = 1) -> Var:
    if types.is_float(x.dtype):
        return mb.clip(x=x, alpha=float(low), beta=float(high))
    return mb.minimum(x=mb.maximum(x=x, y=int(low)), y=int(high))


def _relu6(mb: MilBuilder, x: Var) -> Var:
    return _clip(mb, x, 0, 6)


def _prelu(mb: MilBuilder, x: Var, weight: Var) -> Var:
    """One slope for each channel, on axis 1.

    MIL's ``prelu`` wants constant slopes and an image, though it documents three to five axes:
    coremltools refuses slopes that differ for three and five.
    """
    slopes = None if weight.val is None else np.asarray(weight.val).reshape(-1)
    if slopes is not None and bool((slopes == slopes[0]).all()):
        return mb.leaky_relu(x=x, alpha=float(slopes[0]))
    if slopes is not None and 2 <= x.rank <= 4:
        missing = [2, 3][: 4 - x.rank]
        image = mb.expand_dims(x=x, axes=missing) if missing else x
        image = mb.prelu(x=image, alpha=slopes)
        return mb.squeeze(x=image, axes=missing) if missing else image
    if x.rank > 1 and weight.rank and int(weight.shape[0]) > 1:
        weight = mb.reshape(x=weight, shape=[-1, *[1] * (x.rank - 2)])
    # What is above zero plus the slope times what is below.
    below = mb.minimum(x=x, y=cast(mb, 0.0, mb.result.dtype))
    return mb.add(x=mb.relu(x=x), y=mb.mul(x=below, y=weight))


def _celu(mb: MilBuilder, x: Var, alpha: float = 1.0) -> Var:
    return mb.mul(x=mb.elu(x=mb.mul(x=x, y=1.0 / alpha), alpha=1.0), y=float(alpha))


def _softplus(
    mb: MilBuilder, x: Var, beta: float = 1, threshold: float = _SOFTPLUS_THRESHOLD
) -> Var:
    scaled = x if beta == 1 else mb.mul(x=x, y=float(beta))
    soft = _stable_softplus(mb, scaled)
    soft = soft if beta == 1 else mb.mul(x=soft, y=1.0 / beta)
    if threshold >= _SOFTPLUS_THRESHOLD:
        return soft
    return mb.select(cond=mb.greater(x=scaled, y=float(threshold)), a=x, b=soft)


def _stable_softplus(mb: MilBuilder, x: Var) -> Var:
    """``max(x, 0) + log(1 + exp(-|x|))``, which overflows nowhere.

    *Measured* by others on an M4: the Neural Engine's own float16 softplus drops to 0 above about
    10.4 (apple/coremltools#2687), and mish, which is made of it, with it (#2359).
    """
    small = mb.exp(x=mb.mul(x=mb.abs(x=x), y=-1.0))
    return mb.add(x=mb.relu(x=x), y=mb.log(x=small, epsilon=1.0))


def _mish(mb: MilBuilder, x: Var) -> Var:
    return mb.mul(x=x, y=mb.tanh(x=_stable_softplus(mb, x)))


def _rms_norm(
    mb: MilBuilder,
    x: Var,
    shape: Sequence[int],
    weight: Var | None = None,
    eps: float | None = None,
) -> Var:
    axes = list(range(x.rank - len(shape), x.rank))
    if eps is None:
        eps = torch.finfo(mb.result.dtype).eps
    return rms_norm(mb, x, axes, weight, eps)


def rms_norm(mb: MilBuilder, x: Var, axes: Sequence[int], weight: Var | None, eps: float) -> Var:
    """``x · rsqrt(mean(x²) + eps) · weight``, dividing by ``max(1, max|x|)`` first.

    Squares above 256² overflow float16. Dividing by ``m`` leaves the result as it is when ``eps``
    is divided by ``m²``; ``m`` stays at 1 for ordinary values.
    """
    axes = list(axes)
    x = cast(mb, x, mb.result.dtype)
    largest = mb.reduce_max(x=mb.abs(x=x), axes=axes, keep_dims=True)
    scale = mb.maximum(x=largest, y=1.0)
    small = mb.real_div(x=x, y=scale)
    power = mb.reduce_mean(x=mb.square(x=small), axes=axes, keep_dims=True)
    floor = mb.real_div(x=eps, y=mb.square(x=scale))
    normed = mb.mul(x=small, y=mb.rsqrt(x=mb.add(x=power, y=floor)))
    if weight is None:
        return normed
    shape = [int(x.shape[axis]) if axis in axes else 1 for axis in range(x.rank)]
    return mb.mul(x=normed, y=mb.reshape(x=weight, shape=shape))


TABLE = {
    aten.gelu.default: _gelu,
    aten.hardtanh.default: _clip,
    aten.relu6.default: _relu6,
    aten.celu.default: _celu,
    aten.prelu.default: _prelu,
    aten.softplus.default: _softplus,
    aten.mish.default: _mish,
    aten.rms_norm.default: _rms_norm,
}
