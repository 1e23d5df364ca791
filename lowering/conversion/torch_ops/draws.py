"""Random numbers. A package draws its own: the distribution is torch's, the numbers are not.

coremltools 9.0 cannot lower ``rand`` and ``multinomial`` from torch.export.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from coremltools.converters.mil.mil import Var

from lowering.conversion.builder import MilBuilder
from lowering.conversion.torch_ops.common import cast, size_vector, sizes_of
from lowering.errors import LoweringError

aten = torch.ops.aten


def _uniform(mb: MilBuilder, sizes: Sequence[Any], low: float = 0.0, high: float = 1.0) -> Var:
    return mb.random_uniform(shape=size_vector(mb, sizes), low=float(low), high=float(high))


def _normal(mb: MilBuilder, sizes: Sequence[Any]) -> Var:
    return mb.random_normal(shape=size_vector(mb, sizes), mean=0.0, stddev=1.0)


def _sized(draw: Callable[..., Var]) -> Callable[..., Var]:
    def lower(mb: MilBuilder, size: Sequence[Any], **_: object) -> Var:
        return cast(mb, draw(mb, size), mb.result.dtype)

    return lower


def _like(draw: Callable[..., Var]) -> Callable[..., Var]:
    def lower(mb: MilBuilder, x: Var, **_: object) -> Var:
        return cast(mb, draw(mb, sizes_of(mb, x)), mb.result.dtype)

    return lower


def _whole(mb: MilBuilder, low: int, high: int, size: Sequence[Any], **_: object) -> Var:
    drawn = mb.floor(x=_uniform(mb, size, low, high))
    # Rounding may reach the upper end, which is not among the numbers.
    return cast(mb, mb.minimum(x=drawn, y=float(high - 1)), mb.result.dtype)


def _whole_from_zero(mb: MilBuilder, high: int, size: Sequence[Any], **_: object) -> Var:
    return _whole(mb, 0, high, size)


def _bernoulli(mb: MilBuilder, x: Var, **_: object) -> Var:
    """One with the probability that ``x`` says."""
    drawn = mb.less(x=_uniform(mb, sizes_of(mb, x)), y=cast(mb, x, torch.float32))
    return cast(mb, drawn, mb.result.dtype)


def _bernoulli_p(mb: MilBuilder, x: Var, p: float = 0.5, **_: object) -> Var:
    drawn = mb.less(x=_uniform(mb, sizes_of(mb, x)), y=float(p))
    return cast(mb, drawn, mb.result.dtype)


def _multinomial(mb: MilBuilder, x: Var, count: int, replacement: bool = False, **_: object) -> Var:
    if count > 1 and not replacement:
        raise LoweringError(
            "MIL draws with replacement only",
            op=str(mb.node.target),
            expected="replacement=True, or one sample",
            found=f"{count} samples without replacement",
        )
    return mb.random_categorical(x=x, size=count, mode="probs")


TABLE = {
    aten.rand.default: _sized(_uniform),
    aten.randn.default: _sized(_normal),
    aten.rand_like.default: _like(_uniform),
    aten.randn_like.default: _like(_normal),
    aten.randint.low: _whole,
    aten.randint.default: _whole_from_zero,
    aten.bernoulli.default: _bernoulli,
    aten.bernoulli.p: _bernoulli_p,
    aten.multinomial.default: _multinomial,
}
