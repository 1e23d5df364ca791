"""Operators that compute nothing: aliases, copies and run-time assertions; and ``diff``.

coremltools 9.0 has no ``alias`` (apple/coremltools#2517).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from coremltools.converters.mil.mil import Var

from lowering.conversion.builder import Lowered, MilBuilder
from lowering.conversion.torch_ops.common import cast

aten = torch.ops.aten


def _same(mb: MilBuilder, x: Var, *_: object, **__: object) -> Var:
    return x


def _to_dtype(mb: MilBuilder, x: Var, *_: object, **__: object) -> Var:
    return cast(mb, x, mb.result.dtype)


def _nothing(mb: MilBuilder, *_: object, **__: object) -> None:
    """Assertions about sizes and values were true for the example; a package has no way to fail."""


def _reshape(mb: MilBuilder, x: Var, shape: Sequence[Any]) -> Lowered:
    """To no axes at all: coremltools leaves one."""
    if list(shape) or not x.rank:
        return NotImplemented
    return mb.squeeze(x=x, axes=list(range(x.rank)))


def _diff(
    mb: MilBuilder,
    x: Var,
    n: int = 1,
    dim: int = -1,
    prepend: Var | None = None,
    append: Var | None = None,
) -> Var:
    dtype = mb.result.dtype
    parts = [part for part in (prepend, x, append) if part is not None]
    x = mb.concat(values=parts, axis=dim) if len(parts) > 1 else x
    x = cast(mb, x, torch.int32 if dtype == torch.bool else dtype)
    for _ in range(n):
        later = _sliced(mb, x, dim, begin=1, end=None)
        earlier = _sliced(mb, x, dim, begin=None, end=-1)
        x = mb.sub(x=later, y=earlier)
        if dtype == torch.bool:
            x = mb.not_equal(x=x, y=0)
            x = x if _ == n - 1 else mb.cast(x=x, dtype="int32")
    return x


def _sliced(mb: MilBuilder, x: Var, dim: int, begin: int | None, end: int | None) -> Var:
    """``x[begin:end]`` along ``dim``."""
    axis = dim % x.rank
    here = [index == axis for index in range(x.rank)]
    return mb.slice_by_index(
        x=x,
        begin=[(begin or 0) if on else 0 for on in here],
        end=[(end or 0) if on else 0 for on in here],
        begin_mask=[not on or begin is None for on in here],
        end_mask=[not on or end is None for on in here],
    )


TABLE = {
    aten.alias.default: _same,
    aten.alias_copy.default: _same,
    aten.lift_fresh.default: _same,
    aten.lift_fresh_copy.default: _same,
    aten.clone.default: _same,
    aten.detach.default: _same,
    aten.detach_.default: _same,
    aten.detach_copy.default: _same,
    aten.contiguous.default: _same,
    aten._to_copy.default: _to_dtype,
    aten.to.dtype: _to_dtype,
    aten.to.dtype_layout: _to_dtype,
    aten.to.device: _to_dtype,
    aten._assert_tensor_metadata.default: _nothing,
    aten._assert_async.default: _nothing,
    aten._assert_async.msg: _nothing,
    aten._assert_scalar.default: _nothing,
    aten.sym_constrain_range.default: _nothing,
    aten.sym_constrain_range_for_size.default: _nothing,
    aten.reshape.default: _reshape,
    aten.view.default: _reshape,
    aten.diff.default: _diff,
}
