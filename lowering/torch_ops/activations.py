"""Activations and norms whose keyword or optional arguments coremltools 9.0 drops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from coremltools.converters.mil.mil import Var, types

from lowering.torch_ops.common import cast

aten = torch.ops.aten

# torch's softplus is linear above this value of beta · x; MIL's is exact everywhere.
_SOFTPLUS_THRESHOLD = 20


def _gelu(mb: Any, x: Var, *, approximate: str = "none") -> Var:
    return mb.gelu(x=x, mode="EXACT" if approximate == "none" else "TANH_APPROXIMATION")


def _clip(mb: Any, x: Var, low: Any = -1, high: Any = 1) -> Var:
    if types.is_float(x.dtype):
        return mb.clip(x=x, alpha=float(low), beta=float(high))
    return mb.minimum(x=mb.maximum(x=x, y=int(low)), y=int(high))


def _relu6(mb: Any, x: Var) -> Var:
    return _clip(mb, x, 0, 6)


def _celu(mb: Any, x: Var, alpha: float = 1.0) -> Var:
    return mb.mul(x=mb.elu(x=mb.mul(x=x, y=1.0 / alpha), alpha=1.0), y=float(alpha))


def _softplus(mb: Any, x: Var, beta: float = 1, threshold: float = _SOFTPLUS_THRESHOLD) -> Any:
    if threshold >= _SOFTPLUS_THRESHOLD:
        return NotImplemented
    scaled = mb.mul(x=x, y=float(beta))
    soft = mb.mul(x=mb.softplus(x=scaled), y=1.0 / beta)
    return mb.select(cond=mb.greater(x=scaled, y=float(threshold)), a=x, b=soft)


def _rms_norm(
    mb: Any, x: Var, shape: Sequence[int], weight: Var | None = None, eps: float | None = None
) -> Var:
    axes = list(range(x.rank - len(shape), x.rank))
    if eps is None:
        eps = torch.finfo(mb.result.dtype).eps
    return rms_norm(mb, x, axes, weight, eps)


def rms_norm(mb: Any, x: Var, axes: Sequence[int], weight: Var | None, eps: float) -> Var:
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
    aten.softplus.default: _softplus,
    aten.rms_norm.default: _rms_norm,
}
