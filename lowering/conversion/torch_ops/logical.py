"""Logic and choice: ``&`` ``|`` ``^`` ``~``, ``where`` with numbers, ``masked_fill``.

The operators that HuggingFace builds attention masks with (apple/coremltools#2668, #2584).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from coremltools.converters.mil.mil import Var

from lowering.conversion.builder import MilBuilder, Operand
from lowering.conversion.torch_ops.common import cast, filled, sizes_of

aten = torch.ops.aten


def _binary(op_type: str) -> Callable[..., Var]:
    def lower(mb: MilBuilder, x: Operand, y: Operand) -> Var:
        return getattr(mb, op_type)(x=cast(mb, x, torch.bool), y=cast(mb, y, torch.bool))

    return lower


def _logical_not(mb: MilBuilder, x: Var) -> Var:
    return mb.logical_not(x=cast(mb, x, torch.bool))


def _bitwise_not(mb: MilBuilder, x: Var) -> Var:
    if mb.result.dtype == torch.bool:
        return mb.logical_not(x=cast(mb, x, torch.bool))
    return mb.sub(x=-1, y=x)  # two's complement: ~x = -1 - x


def _where(mb: MilBuilder, condition: Var, a: Operand, b: Operand) -> Var:
    dtype = mb.result.dtype
    condition, a, b = cast(mb, condition, torch.bool), cast(mb, a, dtype), cast(mb, b, dtype)
    if _widens(condition, a, b):
        # coremltools takes the shape of the branches for that of the result.
        b = _spread(mb, b, condition, dtype)
    return mb.select(cond=condition, a=a, b=b)


def _widens(condition: Var, *branches: Var) -> bool:
    """Whether ``condition`` is longer along some axis than every branch."""
    for back, size in enumerate(reversed(condition.shape), start=1):
        longest = {branch.shape[-back] for branch in branches if branch.rank >= back}
        if isinstance(size, (int, np.integer)) and size == 1 and longest:
            continue
        if not longest - {1}:
            return True
    return False


def _spread(mb: MilBuilder, value: Var, like: Var, dtype: torch.dtype) -> Var:
    """``value`` repeated to the shape that it and ``like`` have together."""
    sizes = sizes_of(mb, like)
    if value.val is not None and np.size(value.val) == 1 and value.rank <= like.rank:
        return filled(mb, sizes, np.asarray(value.val).item(), dtype)
    nothing = filled(mb, sizes, 0, dtype)
    if dtype == torch.bool:
        return mb.logical_or(x=value, y=nothing)
    return mb.add(x=value, y=nothing)


def _masked_fill(mb: MilBuilder, x: Var, mask: Var, value: Operand) -> Var:
    return _where(mb, mask, value, x)


TABLE = {
    aten.logical_and.default: _binary("logical_and"),
    aten.logical_or.default: _binary("logical_or"),
    aten.logical_xor.default: _binary("logical_xor"),
    aten.logical_not.default: _logical_not,
    aten.bitwise_not.default: _bitwise_not,
    aten.where.self: _where,
    aten.where.Scalar: _where,
    aten.where.ScalarOther: _where,
    aten.where.ScalarSelf: _where,
    aten.masked_fill.Scalar: _masked_fill,
    aten.masked_fill.Tensor: _masked_fill,
}
