"""Tensors made from sizes: ``new_ones``, ``full`` and relatives.

coremltools 9.0 has no ``new_ones`` (apple/coremltools#2668) and drops the dtype of several of the
others in the torch.export route.
"""

from __future__ import annotations

from typing import Any

import torch
from coremltools.converters.mil.mil import Var

from lowering.conversion.builder import MilBuilder, Operand
from lowering.conversion.torch_ops.common import filled, sizes_of

aten = torch.ops.aten


def _full(
    mb: MilBuilder, size: list[Any], fill_value: Operand, *, dtype: torch.dtype | None = None
) -> Var:
    return filled(mb, size, fill_value, mb.result.dtype)


def _ones(mb: MilBuilder, size: list[Any], *, dtype: torch.dtype | None = None) -> Var:
    return filled(mb, size, 1, mb.result.dtype)


def _zeros(mb: MilBuilder, size: list[Any], *, dtype: torch.dtype | None = None) -> Var:
    return filled(mb, size, 0, mb.result.dtype)


def _new_full(
    mb: MilBuilder,
    x: Var,
    size: list[Any],
    fill_value: Operand,
    *,
    dtype: torch.dtype | None = None,
) -> Var:
    return filled(mb, size, fill_value, mb.result.dtype)


def _new_ones(mb: MilBuilder, x: Var, size: list[Any], *, dtype: torch.dtype | None = None) -> Var:
    return filled(mb, size, 1, mb.result.dtype)


def _new_zeros(mb: MilBuilder, x: Var, size: list[Any], *, dtype: torch.dtype | None = None) -> Var:
    return filled(mb, size, 0, mb.result.dtype)


def _full_like(
    mb: MilBuilder, x: Var, fill_value: Operand, *, dtype: torch.dtype | None = None
) -> Var:
    return filled(mb, sizes_of(mb, x), fill_value, mb.result.dtype)


def _ones_like(mb: MilBuilder, x: Var, *, dtype: torch.dtype | None = None) -> Var:
    return filled(mb, sizes_of(mb, x), 1, mb.result.dtype)


def _zeros_like(mb: MilBuilder, x: Var, *, dtype: torch.dtype | None = None) -> Var:
    return filled(mb, sizes_of(mb, x), 0, mb.result.dtype)


def _scalar_tensor(mb: MilBuilder, value: Operand, *, dtype: torch.dtype | None = None) -> Var:
    return filled(mb, [], value, mb.result.dtype)


TABLE = {
    aten.full.default: _full,
    aten.ones.default: _ones,
    aten.zeros.default: _zeros,
    # An uninitialised tensor is written before it is read; zeros are as good as any value.
    aten.empty.memory_format: _zeros,
    aten.new_full.default: _new_full,
    aten.new_ones.default: _new_ones,
    aten.new_zeros.default: _new_zeros,
    aten.new_empty.default: _new_zeros,
    aten.full_like.default: _full_like,
    aten.ones_like.default: _ones_like,
    aten.zeros_like.default: _zeros_like,
    aten.empty_like.default: _zeros_like,
    aten.scalar_tensor.default: _scalar_tensor,
}
