"""Small steps that several lowerings share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from coremltools.converters.mil.mil import Var, types

from lowering.conversion.builder import Lowered, MilBuilder, Operand
from lowering.conversion.conform import MIL_DTYPE
from lowering.errors import LoweringError

_NUMPY = {"fp16": np.float16, "fp32": np.float32, "int32": np.int32, "bool": np.bool_}
_INT32 = np.iinfo(np.int32)


def rows_of(mb: MilBuilder, x: Var, most: int, what: str) -> int:
    """How many rows the square matrices ``x`` have.

    Raises:
        LoweringError: the number is not known or above ``most``; begins with ``what``.
    """
    size = x.shape[-1]
    if not isinstance(size, (int, np.integer)) or size > most:
        raise LoweringError(
            f"{what}, which is for small ones only",
            op=str(mb.node.target),
            expected=f"at most {most} rows",
            found=f"{size} rows",
            hint="compute what depends on weights alone before the export",
        )
    return int(size)


def mil_dtype(dtype: torch.dtype) -> str:
    """MIL's name of the dtype that stands for ``dtype``."""
    return MIL_DTYPE[dtype]


def number(value: Operand, dtype: torch.dtype) -> Lowered:
    """A Python number as a numpy scalar of MIL's dtype for ``dtype``; integers saturate."""
    kind = _NUMPY[mil_dtype(dtype)]
    if kind is np.int32:
        value = max(_INT32.min, min(_INT32.max, int(value)))
    return kind(value)


def cast(mb: MilBuilder, value: Operand, dtype: torch.dtype) -> Var:
    """``value`` (a Var or a number) as MIL's dtype for ``dtype``."""
    if not isinstance(value, Var):
        return mb.const(val=number(value, dtype))
    wanted = mil_dtype(dtype)
    if types.builtin_to_string(value.dtype) == wanted:
        return value
    return mb.cast(x=value, dtype=wanted)


def size_vector(mb: MilBuilder, sizes: Sequence[Any]) -> Lowered:
    """A list of sizes, numbers and scalar Vars mixed, as what MIL takes for a shape."""
    if all(isinstance(size, int) for size in sizes):
        return np.array(sizes, dtype=np.int32)
    # Scalars as they are: coremltools follows symbols through concat, not through expand_dims.
    parts = [
        cast(mb, size, torch.int32) if isinstance(size, Var) else np.int32(size) for size in sizes
    ]
    return mb.concat(values=parts, axis=0)


def filled(mb: MilBuilder, sizes: Sequence[Any], value: Operand, dtype: torch.dtype) -> Var:
    """A tensor of ``sizes`` with ``value`` everywhere."""
    if all(isinstance(size, int) for size in sizes) and not isinstance(value, Var):
        return mb.const(val=np.full(sizes, number(value, dtype)))
    as_int = dtype == torch.bool  # MIL's fill makes no booleans
    fill_dtype = torch.int32 if as_int else dtype
    shape = size_vector(mb, sizes)
    if isinstance(value, Var):
        ones = mb.fill(shape=shape, value=number(1, fill_dtype))
        result = mb.mul(x=ones, y=cast(mb, value, fill_dtype))
    else:
        result = mb.fill(shape=shape, value=number(value, fill_dtype))
    return mb.cast(x=result, dtype="bool") if as_int else result


def sizes_of(mb: MilBuilder, x: Var) -> list[Any]:
    """Sizes of ``x``: numbers where known, scalar Vars elsewhere."""
    if all(isinstance(size, int) for size in x.shape):
        return [int(size) for size in x.shape]
    shape = mb.shape(x=x)
    return [
        int(size)
        if isinstance(size, int)
        else mb.slice_by_index(x=shape, begin=[axis], end=[0], squeeze_mask=[True])
        for axis, size in enumerate(x.shape)
    ]


def axis_of(dim: int, rank: int) -> int:
    """``dim`` counted from the front."""
    return dim + rank if dim < 0 else dim
