"""MIL for the ``ane::`` operators, which the passes write and ATen has no single node for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from coremltools.converters.mil.mil import Var

from frontend import ops
from lowering.conversion.builder import MilBuilder
from lowering.conversion.composites import Composite, composite
from lowering.conversion.torch_ops import activations


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _weight(size: int, factor: float = 1.0) -> torch.nn.Parameter:
    return torch.nn.Parameter(_random(size) * factor)


@composite(
    ops.layer_norm,
    samples=[
        (_random(1, 8, 1, 16), [1], _weight(8), _weight(8), 1e-5),
        (_random(1, 8, 1, 16), [1], _weight(8), None, 1e-5),
        (_random(2, 3, 4), [1, 2], None, None, 1e-6),
        (_random(2, 3, 8), [2], _weight(8, 0.0), _weight(8), 1e-12),
    ],
)
def layer_norm(
    mb: MilBuilder, x: Var, axes: Sequence[int], weight: Var | None, bias: Var | None, eps: float
) -> Var:
    """One MIL op, affine included: coremltools fuses a written-out norm for some spellings only."""
    return mb.layer_norm(x=x, axes=list(axes), gamma=weight, beta=bias, epsilon=eps)


@composite(
    ops.rms_norm,
    samples=[
        (_random(1, 8, 1, 16), [1], _weight(8), 1e-6),
        (_random(2, 5, 8), [2], None, 1e-6),
        # Squares of these overflow float16.
        (_random(1, 8, 1, 16) * 3000, [1], _weight(8), 1e-6),
    ],
)
def rms_norm(mb: MilBuilder, x: Var, axes: Sequence[int], weight: Var | None, eps: float) -> Var:
    """Safe in float16, see :func:`lowering.conversion.torch_ops.activations.rms_norm`."""
    return activations.rms_norm(mb, x, axes, weight, eps)


ANE_COMPOSITES: tuple[Composite, ...] = (layer_norm, rms_norm)
