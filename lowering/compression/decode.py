"""Proves a compressed weight: what is decoded from the file against what was encoded.

The bound of an element w, decoded as d, with the operands as they stand in the file:

* ``linear``: |w - d| ≤ s/2 + max(0, |w| - q s) + u |d|, for a scale s, the largest integer q, and u
  half the spacing of the weight's type at 1. What lies beyond q s is by how much rounding made the
  scale smaller, at most q s u + q t for the smallest number t of the type; that is checked as well.
* ``palette``: d is the entry nearest to w: |w - d| ≤ |w - e| for every entry e of its palette.
  The mean square of w - d is at most that of entries in equal steps, (range / (2 (n - 1)))².
* ``sparse``: d = w, or d = 0 where |w| is at most the smallest |w| that is kept. No larger share
  than asked for, beside what was zero, becomes zero.
* ``joint``: zeros as for ``sparse``, the rest as for ``palette``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lowering.compression.encoding import slices_along, spread
from lowering.compression.rungs import Rung
from lowering.errors import CompressionError
from lowering.reference.stored_weights import StoredWeight

# Sums and products of the bounds are taken in float32 here.
_SLACK = 1e-6


@dataclass(frozen=True)
class Proof:
    """How a decoded weight compares with its source.

    Attributes:
        error: relative L2 error.
        of_bound: the largest share of an element's bound; 1 at most where it holds.
    """

    error: float
    of_bound: float


def prove(source: np.ndarray, stored: StoredWeight, rung: Rung) -> Proof:
    """That ``stored`` is within its bound.

    Args:
        source: the weight before, fp16 or fp32.
        stored: what the package holds of it.
        rung: as which it was stored.

    Raises:
        CompressionError: an element is not.
    """
    bounds = _Bounds(source, rung, stored)
    proof = bounds.measured()
    fault = bounds.fault()
    if not proof.of_bound <= 1 or fault:
        raise CompressionError(
            "a weight does not decode to what it was",
            op=f"{stored.kinds[-1]} {stored.name}",
            expected=f"every element within the bound of {rung.name}",
            found=fault or f"an element at {proof.of_bound:.3g} times its bound",
            hint="nothing was written; report the package, its weights are at fault or our encoder",
        )
    return proof


def measured(
    source: np.ndarray, stored: StoredWeight, rung: Rung, *, of_step: float, slack: float
) -> Proof:
    """As :func:`prove`, of a weight that another tool may have encoded; nothing is raised.

    Args:
        source: the weight before, fp16 or fp32.
        stored: what a package holds of it.
        rung: as which it was stored; how many are zero or how good a palette is, is not looked at.
        of_step: what is allowed beside, of the scale or the distance of two entries.
        slack: what is allowed beside, relative to the element.
    """
    return _Bounds(source, rung, stored, of_step).measured(slack)


def _share(difference: np.ndarray, allowed: np.ndarray) -> float:
    """The largest quotient; an exact element takes nothing of its bound, even of zero."""
    wrong = difference > allowed * (1 + _SLACK)
    if wrong.any():
        with np.errstate(divide="ignore"):
            return max(float(np.max(difference[wrong] / allowed[wrong])), 1 + 2 * _SLACK)
    some = allowed > 0
    return min(float(np.max(difference[some] / allowed[some])), 1.0) if some.any() else 0.0


class _Bounds:
    """The bound of each element of one weight, see the module."""

    def __init__(
        self, source: np.ndarray, rung: Rung, stored: StoredWeight, of_step: float = 0.0
    ) -> None:
        self._source, self._rung, self._of_step = source, rung, of_step
        self._decoded = stored.value.numpy().reshape(source.shape)
        operands = {name: tensor.numpy() for name, tensor in stored.operands.items()}
        self._scale = operands.get("scale")
        self._lut = operands.get("lut")
        info = np.finfo(source.dtype)
        self._half, self._least = float(info.eps) / 2, float(info.smallest_subnormal)
        self.axis = 0
        if self._scale is not None and self._scale.ndim < source.ndim:
            # The form of iOS 16 has one axis.
            sizes = [1] * source.ndim
            sizes[int(operands["axis"])] = -1
            self._scale = self._scale.reshape(sizes)
        shape: tuple[int, ...] = () if self._scale is None else self._scale.shape
        if self._lut is not None and self._lut.ndim == source.ndim + 2:
            shape = self._lut.shape[:-2]
        # The axis of whose elements each has a scale, else the one that is in groups.
        self.axis = max(
            range(len(shape)), key=lambda axis: _fineness(shape, source, axis), default=0
        )
        self._mask = operands.get("indices_mask")
        self._dropped = self._square = 0.0
        self._least_kept, self._zeros = math.inf, 0

    def measured(self, slack: float = 0.0) -> Proof:
        """How far the elements are from their source, and of their bounds."""
        of_square = share = 0.0
        for part in slices_along(self._source, self.axis):
            wide = self._source[part].astype(np.float32)
            found = self._decoded[part].astype(np.float32, copy=False)
            difference, size = np.abs(wide - found), np.abs(wide)
            allowed = self._of(part, wide, found) + slack * size
            self._square += float(np.sum(np.square(difference, dtype=np.float64)))
            of_square += float(np.sum(np.square(size, dtype=np.float64)))
            share = max(share, _share(difference, allowed))
        return Proof((self._square / (of_square or 1.0)) ** 0.5, share)

    def _of(self, part: tuple[slice, ...], wide: np.ndarray, found: np.ndarray) -> np.ndarray:
        """The bounds of the elements of a part of the source."""
        if self._scale is not None:
            return self._linear(part, wide, found)
        if self._rung.kind == "palette":
            return self._nearest(part, wide)
        return self._sparse(part, wide, found)

    def _linear(self, part: tuple[slice, ...], wide: np.ndarray, found: np.ndarray) -> np.ndarray:
        assert self._scale is not None
        scale = self._scale.astype(np.float32)
        if scale.shape[self.axis] > 1:
            scale = scale[part]
        steps = spread(scale, wide.shape)
        limit = (1 << (self._rung.bits - 1)) - 1
        beyond = np.maximum(np.abs(wide) - limit * steps, 0)
        beyond = np.minimum(beyond, limit * (steps * self._half + self._least))
        return steps * (0.5 + self._of_step) + beyond + self._half * np.abs(found)

    def _nearest(self, part: tuple[slice, ...], wide: np.ndarray) -> np.ndarray:
        assert self._lut is not None
        grouped = self._lut.ndim == wide.ndim + 2
        groups = self._lut.shape[self.axis] if grouped else 1
        tables = self._lut.reshape(groups, -1)
        size = self._source.shape[self.axis] // groups
        rows = np.moveaxis(wide, self.axis, 0)
        bounds = np.empty(rows.shape, np.float32)
        first = part[self.axis].start
        for group in range(first // size, -(-(first + len(rows)) // size)):
            own = slice(max(group * size - first, 0), (group + 1) * size - first)
            bounds[own] = _distance(rows[own], tables[group], self._of_step)
        return np.moveaxis(bounds, 0, self.axis)

    def _sparse(self, part: tuple[slice, ...], wide: np.ndarray, found: np.ndarray) -> np.ndarray:
        is_zero = found == 0 if self._mask is None else self._mask[part] == 0
        size = np.abs(wide)
        self._dropped = max(self._dropped, float(np.max(size[is_zero], initial=0.0)))
        least = float(np.min(size[~is_zero], initial=np.inf))
        self._least_kept = min(self._least_kept, least)
        self._zeros += int(np.count_nonzero(size[is_zero]))
        kept = np.zeros_like(wide)
        if self._lut is not None:
            kept = _distance(wide, self._lut.reshape(-1), self._of_step)
        return np.where(is_zero, size, kept)

    def fault(self) -> str:
        """What the bounds of single elements do not show, once measured; ``""`` for nothing."""
        source, square = self._source, self._square
        if self._rung.kind == "palette":
            entries = 1 << self._rung.bits
            low, high = float(source.min()), float(source.max())
            step, largest = (high - low) / (2 * (entries - 1)), max(-low, high)
            if (
                square
                > source.size * step**2 * (1 + self._half) ** 2
                + source.size * (self._half * largest) ** 2
            ):
                return "its palette is worse than one of equal steps"
        if self._rung.sparsity:
            if self._least_kept < self._dropped:
                return f"{self._dropped:.3g} became zero and {self._least_kept:.3g} did not"
            if self._zeros > round(self._rung.sparsity * source.size):
                return f"{self._zeros / source.size:.1%} of it became zero"
        return ""


def _fineness(shape: tuple[int, ...], source: np.ndarray, axis: int) -> tuple[bool, int]:
    return shape[axis] == source.shape[axis] > 1, shape[axis]


def _distance(values: np.ndarray, table: np.ndarray, of_step: float) -> np.ndarray:
    """From each value to the nearest entry, and a share of the distance of those around it."""
    entries = np.unique(table.astype(np.float32))
    if len(entries) == 1:
        return np.abs(values - entries[0])
    after = np.clip(np.searchsorted(entries, values), 1, len(entries) - 1)
    below, above = entries[after - 1], entries[after]
    found: np.ndarray = np.minimum(np.abs(values - below), np.abs(values - above))
    return found + of_step * (above - below) if of_step else found
