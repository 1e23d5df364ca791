"""Padding by amounts that follow from sizes: ``F.pad(x, (0, 40 - x.shape[-1]))``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from coremltools.converters.mil.mil import Var
from torch import fx

from lowering.conversion.builder import Lowered, MilBuilder, Operand
from lowering.conversion.torch_ops.common import cast, size_vector, sizes_of


def pad_by_sizes(
    mb: MilBuilder, x: Var, pad: Sequence[Operand], mode: str, value: float | None
) -> Lowered:
    """Pads by the most that can be needed, and cuts out what is wanted.

    MIL pads by constants only (*documented* for one axis more by coremltools 9.0's frontend);
    a join with a filled tensor would have no elements where the amount is 0. ``NotImplemented``
    where an amount has no bound or may be negative, or the mode reads the input.
    """
    given = mb.node.args[1]
    if mode != "constant" or not isinstance(given, (list, tuple)):
        return NotImplemented
    most = [_bound(amount) for amount in given]
    if any(amount is None for amount in most):
        return NotImplemented
    before: dict[int, int] = {}
    widest = [0] * (2 * x.rank)
    for place in range(0, len(pad), 2):
        axis = x.rank - 1 - place // 2
        before[axis] = place
        widest[2 * axis : 2 * axis + 2] = [most[place] or 0, most[place + 1] or 0]
    sizes = sizes_of(mb, x)
    fill = cast(mb, value or 0, mb.result.dtype)
    wide = mb.pad(x=x, pad=widest, mode="constant", constant_val=fill)
    begin: list[Operand] = [0] * x.rank
    size: list[Operand] = list(sizes)
    for axis, place in before.items():
        begin[axis] = _difference(mb, widest[2 * axis], pad[place])
        known = mb.result.shape[axis]
        size[axis] = (
            known
            if isinstance(known, int)
            else _sum(mb, _sum(mb, sizes[axis], pad[place]), pad[place + 1])
        )
    return mb.slice_by_size(x=wide, begin=size_vector(mb, begin), size=size_vector(mb, size))


def _bound(amount: object) -> int | None:
    """The most that an amount can be; ``None`` where that is not known, or where it may be < 0."""
    value = amount.meta.get("val") if isinstance(amount, fx.Node) else amount
    if isinstance(value, int):
        return value if value >= 0 else None
    if not isinstance(value, torch.SymInt):
        return None
    bounds = value.node.shape_env.bound_sympy(value.node.expr)
    if not bounds.lower.is_number or bounds.lower < 0 or not bounds.upper.is_Integer:
        return None
    return int(bounds.upper)


def _sum(mb: MilBuilder, x: Operand, y: Operand) -> Operand:
    if isinstance(x, int) and isinstance(y, int):
        return x + y
    return mb.add(x=cast(mb, x, torch.int32), y=cast(mb, y, torch.int32))


def _difference(mb: MilBuilder, x: int, y: Operand) -> Operand:
    if isinstance(y, int):
        return x - y
    return mb.sub(x=cast(mb, x, torch.int32), y=cast(mb, y, torch.int32))
