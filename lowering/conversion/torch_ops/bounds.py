"""Bounds of integers, in integers: MIL's ``clip`` and ``relu`` take floats.

coremltools 9.0 casts integers to floats for them: whole numbers above 2,048 are rounded where the
package computes in float16, and above 65,504 they end.
"""

from __future__ import annotations

import torch
from coremltools.converters.mil.mil import Var

from lowering.conversion.builder import Lowered, MilBuilder, Operand
from lowering.conversion.torch_ops.common import cast

aten = torch.ops.aten


def _clamp(
    mb: MilBuilder, x: Var, low: Operand | None = None, high: Operand | None = None
) -> Lowered:
    """Integers by ``maximum`` and ``minimum``; floats by tensors likewise, as ``clip`` has none."""
    dtype = mb.result.dtype
    bounds = [bound for bound in (low, high) if bound is not None]
    if dtype.is_floating_point and not any(isinstance(bound, Var) for bound in bounds):
        return NotImplemented
    x = cast(mb, x, dtype)
    if low is not None:
        x = mb.maximum(x=x, y=cast(mb, low, dtype))
    return x if high is None else mb.minimum(x=x, y=cast(mb, high, dtype))


def _clamp_max(mb: MilBuilder, x: Var, high: Operand) -> Lowered:
    return _clamp(mb, x, None, high)


def _relu(mb: MilBuilder, x: Var) -> Lowered:
    return _clamp(mb, x, 0)


TABLE = {
    aten.clamp.default: _clamp,
    aten.clamp.Tensor: _clamp,
    aten.clamp_min.default: _clamp,
    aten.clamp_min.Tensor: _clamp,
    aten.clamp_max.default: _clamp_max,
    aten.clamp_max.Tensor: _clamp_max,
    aten.relu.default: _relu,
}
