"""How far two results are apart, and how far they may be."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Thresholds:
    """The largest relative L2 error that an output may have.

    Attributes:
        fp32: for packages without fp16 values. float32 keeps 7 digits; sums in another order
            cost two or three of them.
        fp16_factor: for packages with fp16 values, as a multiple of the yardstick: the error of
            the original itself, run by torch in half precision.
        fp16_floor: what is always allowed at fp16, four roundings of 2^-11 each: some originals
            err less than their storage format by luck.
        fp16_ceiling: what is never exceeded at fp16: an original that overflows or cancels in half
            precision is no excuse for a useless package.
        fp16_alone: allowed at fp16 where torch cannot run the original in half precision.
    """

    fp32: float = 1e-4
    fp16_factor: float = 3.0
    fp16_floor: float = 2e-3
    fp16_ceiling: float = 5e-2
    fp16_alone: float = 1e-2

    def allowed(self, is_fp16: bool, yardstick: float | None, overflowed: bool = False) -> float:
        """The threshold for one output with this ``yardstick``.

        A yardstick that ``overflowed`` allows no more than none would.
        """
        if not is_fp16:
            return self.fp32
        if yardstick is None or not math.isfinite(yardstick):
            return self.fp16_alone
        ceiling = min(self.fp16_ceiling, self.fp16_alone) if overflowed else self.fp16_ceiling
        return min(max(self.fp16_floor, self.fp16_factor * yardstick), ceiling)

    def is_tight(self, yardstick: float | None) -> bool:
        """Whether ``yardstick`` needs no explanation: it allows no more than no yardstick would."""
        return yardstick is not None and self.fp16_factor * yardstick <= self.fp16_alone

    def looseness(self, yardstick: float | None, overflowed: bool = False) -> str:
        """Why the threshold of an fp16 output says little, ``""`` where it does not."""
        if yardstick is None:
            return "torch cannot run the original in half precision"
        if not math.isfinite(yardstick):
            return "the original is not finite in half precision"
        if overflowed and self.fp16_factor * yardstick > self.fp16_alone:
            return "the original overflows in half precision"
        if self.fp16_factor * yardstick > self.fp16_ceiling:
            return f"the original itself is off by {yardstick:.1e} in half precision"
        return ""


@dataclass(frozen=True)
class Parity:
    """One output of the package against the original's.

    Attributes:
        name: of the output, or ``state NAME``.
        max_abs: largest absolute difference.
        rel_l2: L2 norm of the difference over that of the original's output.
        cosine: of the angle between both.
        yardstick: ``rel_l2`` of the original run by torch in half precision, ``None`` when it
            was not, or could not be, run.
        threshold: the largest ``rel_l2`` that passes.
        loose: why the threshold says little, ``""`` where it is three times the yardstick or less.
    """

    name: str
    max_abs: float
    rel_l2: float
    cosine: float
    yardstick: float | None
    threshold: float
    loose: str = ""

    @property
    def passed(self) -> bool:
        """Whether the output is close enough; NaN is not."""
        return self.rel_l2 <= self.threshold

    def to_json(self) -> dict[str, Any]:
        """As a flat dictionary."""
        return {**asdict(self), "passed": self.passed}


def parity(
    name: str, found: Tensor, expected: Tensor, threshold: float, yardstick: float | None = None
) -> Parity:
    """Compares two tensors of any dtype with the same number of elements."""
    if found.numel() != expected.numel():
        return Parity(name, math.inf, math.inf, 0.0, yardstick, threshold)
    a, b = _wide(found), _wide(expected)
    difference = _difference(a, b)
    norm = float(a.norm() * b.norm())
    same = not bool(difference.any())
    cosine = float(a @ b) / norm if norm > 0 and math.isfinite(norm) else float(same)
    max_abs = float(difference.abs().max()) if a.numel() else 0.0
    return Parity(name, max_abs, rel_l2(found, expected), cosine, yardstick, threshold)


def rel_l2(found: Tensor, expected: Tensor) -> float:
    """L2 norm of the difference over that of ``expected``; infinite for other sizes and NaN.

    Equal infinities agree. Where ``expected`` is zero throughout, the norm of the difference.
    """
    if found.numel() != expected.numel():
        return math.inf
    a, b = _wide(found), _wide(expected)
    difference = _difference(a, b)
    if not bool(torch.isfinite(difference).all()):
        return math.inf
    scale = float(torch.where(torch.isfinite(b), b, 0.0).norm())
    return float(difference.norm()) / (scale or 1.0)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).to(torch.float64)


def _difference(a: Tensor, b: Tensor) -> Tensor:
    # Equal infinities would give NaN; a NaN on both sides is the original's own.
    same = (a == b) | (a.isnan() & b.isnan())
    return torch.where(same, 0.0, a - b)
