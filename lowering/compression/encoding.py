"""A weight as a rung stores it: the parts of the ``constexpr_*`` operators that decode it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from lowering.compression.palettes import histogram, palette
from lowering.compression.rungs import Rung
from lowering.compression.sites import WeightSite
from lowering.package.dtypes import BY_NAME, INT4, INT8, UINT1, DType

# Weights that are worked on at a time, so that a large one is never held in wider numbers.
_SLICE = 1 << 18


@dataclass(frozen=True)
class Part:
    """An operand that is stored.

    Attributes:
        array: elements in ``dtype.storage``.
        dtype: their type.
    """

    array: np.ndarray
    dtype: DType


@dataclass(frozen=True)
class DecodeOp:
    """A ``constexpr_*`` operator, in the form of iOS 18.

    Attributes:
        type: of the operator.
        parts: stored operands by parameter.
        reads: operands that the decoder before it makes, as the place among its results.
        masked: whether it has two results, a mask and the elements that it keeps; else the weight.
    """

    type: str
    parts: dict[str, Part]
    reads: dict[str, int] = field(default_factory=dict)
    masked: bool = False

    @property
    def bits(self) -> int:
        """Bits that its operands take."""
        return sum(part.array.size * part.dtype.bits for part in self.parts.values())


def encode(site: WeightSite, weight: np.ndarray, rung: Rung) -> tuple[DecodeOp, ...] | str:
    """The decoders of a weight, the last of which makes it; or why it stays as it is.

    Args:
        site: the weight's place.
        weight: its finite values, of ``site.shape``.
        rung: how to store it.

    Raises:
        InputError: what the rung needs is not installed.
    """
    if rung.kind == "linear":
        return _linear(site, weight, rung)
    if rung.kind == "palette":
        return _palette(site, weight, rung)
    return _sparse(site, weight, rung)


def _linear(site: WeightSite, weight: np.ndarray, rung: Rung) -> tuple[DecodeOp, ...] | str:
    """Integers times a scale: the largest number of a channel, or block, over the largest integer.

    The quotients are taken with the scale as it is stored, so that rounding it costs no more than
    what it leaves out at the largest number.
    """
    from coremltools.optimize.coreml._quantization_passes import linear_quantize_weights

    dtype = INT4 if rung.bits == INT4.bits else INT8
    blocks = [0] * weight.ndim
    blocks[site.channels] = 1
    if rung.block:
        size = weight.shape[site.summed]
        blocks[site.summed] = _fitting(size, rung.block)
        if not blocks[site.summed]:
            return f"{size} channels cannot be put in blocks of {rung.block}, nor of a few less"
    data = np.empty(weight.shape, dtype.storage)
    scales = []
    for part in slices_along(weight, site.channels):
        wide = weight[part].astype(np.float32)
        with np.errstate(invalid="ignore", divide="ignore"):  # channels of zeros alone
            found = linear_quantize_weights.blockwise_compress(
                wide, rung.bits, "LINEAR_SYMMETRIC", True, blocks
            )
        scale = found.scale.astype(weight.dtype)
        if np.any((scale == 0) & (found.scale > 0)):
            return f"its numbers are too small for a scale in {site.dtype.name}"
        scale[scale == 0] = 1
        limit = (1 << (rung.bits - 1)) - 1
        steps = wide / spread(scale, wide.shape)
        data[part] = np.clip(np.rint(steps, out=steps), -limit, limit, out=steps)
        scales.append(scale)
    parts = {
        "data": Part(data, dtype),
        "scale": Part(np.concatenate(scales, site.channels), site.dtype),
    }
    return (DecodeOp("constexpr_blockwise_shift_scale", parts),)


def _palette(site: WeightSite, weight: np.ndarray, rung: Rung) -> tuple[DecodeOp, ...]:
    """Places in a palette, or in one for each group of channels.

    Groups are of output channels, of input channels where these cannot be divided, and of all where
    neither can.
    """
    axis, size = site.channels, weight.shape[site.channels]
    for candidate in (site.summed, site.channels):
        if fitting := _fitting(weight.shape[candidate], rung.group):
            axis, size = candidate, fitting
    indices = np.empty(weight.shape, np.uint8)
    tables = []
    for start in range(0, weight.shape[axis], size):
        part = (*[slice(None)] * axis, slice(start, start + size))
        table, places = palette(weight[part], rung.bits)
        indices[part] = places.reshape(indices[part].shape)
        tables.append(table)
    groups = [len(tables) if dim == axis else 1 for dim in range(weight.ndim)]
    parts = {
        "indices": Part(indices, BY_NAME[f"uint{rung.bits}"]),
        "lut": Part(np.stack(tables).reshape(*groups, -1, 1), site.dtype),
    }
    return (DecodeOp("constexpr_lut_to_dense", parts),)


def _fitting(rows: int, group: int) -> int:
    """The largest group of at most ``group`` channels that divides them, and of half as many at
    least; 0 where there is none. Smaller ones would cost more for palettes or scales than they
    gain.
    """
    sizes = range(min(group, rows), (group + 1) // 2 - 1, -1) if group else ()
    return next((size for size in sizes if rows % size == 0), 0)


def _sparse(site: WeightSite, weight: np.ndarray, rung: Rung) -> tuple[DecodeOp, ...] | str:
    """The numbers that are not zero and where they are; in a palette where there is one."""
    mask = np.empty(weight.shape, np.uint8)
    limit = _limit(weight, rung.sparsity)
    kept = []
    for part in slices_along(weight, 0):
        mask[part] = np.abs(weight[part]) > limit
        kept.append(weight[part][mask[part] != 0])
    numbers = np.concatenate(kept)
    if not numbers.size:
        return "no number of it is larger than the others"
    marks = Part(mask, UINT1)
    if rung.kind == "sparse":
        parts = {"nonzero_data": Part(numbers, site.dtype), "mask": marks}
        return (DecodeOp("constexpr_sparse_to_dense", parts),)
    table, places = palette(numbers, rung.bits)
    lut = table.reshape(*[1] * weight.ndim, -1, 1)
    first = {
        "indices_mask": marks,
        "indices_nonzero_data": Part(places, BY_NAME[f"uint{rung.bits}"]),
        "lut": Part(lut, site.dtype),
    }
    return (
        DecodeOp("constexpr_lut_to_sparse", first, masked=True),
        DecodeOp("constexpr_sparse_to_dense", {}, {"mask": 0, "nonzero_data": 1}),
    )


def _limit(weight: np.ndarray, sparsity: float) -> float:
    """The magnitude up to which numbers become zero: the share asked for, and equal ones."""
    values, counts = histogram(np.abs(weight.reshape(-1)))
    reached = np.cumsum(counts) <= round(sparsity * weight.size)
    return float(values[reached][-1]) if reached.any() else 0.0


def spread(parameter: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """``parameter`` with each element repeated over its block of ``shape``."""
    for axis, size in enumerate(shape):
        if 1 < parameter.shape[axis] < size:
            parameter = np.repeat(parameter, size // parameter.shape[axis], axis)
    return parameter


def slices_along(weight: np.ndarray, axis: int) -> Iterator[tuple[slice, ...]]:
    """Parts of a weight, each of whole channels along ``axis``."""
    rows = weight.shape[axis]
    step = max(1, _SLICE * rows // max(weight.size, 1))
    for start in range(0, rows, step):
        yield (*[slice(None)] * axis, slice(start, start + step))
