"""What one value of a run says about int32 and float16, the types it has in a package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from frontend import fp16
from lowering.checking.rules import Severity
from lowering.conversion.integers import ARITHMETIC

INT32 = torch.iinfo(torch.int32)

_aten = torch.ops.aten
# Beyond this a number is a stand-in for infinity.
_NO_SCALE = 1e30
# Operators that put a constant among the activations as it is.
FILLS = frozenset(
    {
        _aten.masked_fill, _aten.where, _aten.full, _aten.full_like, _aten.new_full,
        _aten.scalar_tensor,
    }
)  # fmt: skip
Problem = tuple[str, str, Severity | None]


def problem_of(
    target: object, args: Sequence[Any], results: object, beyond: bool
) -> Problem | None:
    """Rule, sentence and severity for what ``target`` computed, ``None`` where it fits.

    Args:
        target: an operator overload.
        args: its positional arguments; only numbers among them are looked at.
        results: its result: a tensor, or several.
        beyond: an argument lay beyond the range already.
    """
    packet = getattr(target, "overloadpacket", None)
    for result in tensors(results):
        if not is_beyond(result):
            continue
        if not result.is_floating_point():
            low, high = (int(value) for value in result.aminmax())
            found = f"values from {low:,} to {high:,}, outside of int32"
            wrong = packet in ARITHMETIC
            return None if beyond and not wrong else ("int64-range", found, _severity(wrong))
        if beyond:
            return None
        peak = finite_peak(result)
        if packet in FILLS or masks(args):
            return "fp16-large-constant", f"it fills in {peak:.3g}", None
        if peak > fp16.MAX:
            return "fp16-overflow", f"values up to {peak:.3g} on the example inputs", None
    if beyond and packet in ARITHMETIC and any(_is_int64(t) for t in tensors(results)):
        return "int64-range", "it computes with integers outside of int32", Severity.WRONG
    return None


def is_beyond(tensor: Tensor) -> bool:
    """An element lies outside of float16 (infinities count) or, for int64, outside of int32."""
    if not tensor.numel() or tensor.layout is not torch.strided:
        return False
    if tensor.is_floating_point():
        # A NaN in aminmax compares false, as it should: it is not out of range.
        low, high = (float(value) for value in tensor.detach().aminmax())
        return low < -fp16.MAX or high > fp16.MAX
    if not _is_int64(tensor):
        return False
    low, high = (int(value) for value in tensor.aminmax())
    return low < INT32.min or high > INT32.max


def finite_peak(tensor: Tensor) -> float:
    """The largest finite magnitude; 0 where nothing is finite."""
    size = tensor.detach().abs()
    finite = size[size.isfinite()]
    return float(finite.max()) if finite.numel() else 0.0


def tensors(values: object) -> Iterator[Tensor]:
    """The tensors in a nest of values."""
    leaves = torch.utils._pytree.tree_leaves(values)
    return (leaf for leaf in leaves if isinstance(leaf, Tensor))


def _severity(wrong: bool) -> Severity:
    return Severity.WRONG if wrong else Severity.NOTE


def _is_int64(tensor: Tensor) -> bool:
    return tensor.dtype is torch.int64


def masks(args: Sequence[object]) -> bool:
    """Whether a number among the arguments is meant to block.

    Nothing is scaled by a large negative one, or by the largest.
    """
    numbers = [value for value in args if isinstance(value, float)]
    return any(number < -fp16.MAX or number > _NO_SCALE for number in numbers)
