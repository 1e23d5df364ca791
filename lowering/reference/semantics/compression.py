"""Quantization at run time, and the ``constexpr_*`` ops that decode compressed weights at load."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lowering.package.dtypes import BY_NAME, UINT1, DType
from lowering.package.weights import unpack_bits
from lowering.reference.binding import Semantics
from lowering.reference.errors import ExecutionError

# Elements of a weight that are decoded at a time.
_PART = 1 << 18
# Numbers of a table that are picked at a time.
_PICKED = 1 << 17


def quantize(
    input: Tensor,
    scale: Tensor,
    output_dtype: str,
    zero_point: Tensor | None = None,
    axis: int | None = None,
) -> Tensor:
    """``clip(round(input / scale) + zero_point)`` in the range of ``output_dtype``."""
    target = BY_NAME[output_dtype]
    limits = np.iinfo(target.storage)
    steps = torch.round(input / _on_axis(scale, input.ndim, axis))
    if zero_point is not None:
        steps = steps + _on_axis(zero_point, input.ndim, axis)
    return steps.clamp(float(limits.min), float(limits.max)).to(target.carrier)


def dequantize(
    input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    """``scale * (input - zero_point)``."""
    steps = input.to(torch.float32)
    if zero_point is not None:
        steps = steps - _on_axis(zero_point, input.ndim, axis)
    return steps * _on_axis(scale, input.ndim, axis)


def constexpr_affine_dequantize(
    quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int
) -> Tensor:
    """``scale * (quantized_data - zero_point)``."""
    return dequantize(quantized_data, scale, zero_point, axis)


def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    """``source_val`` as ``output_dtype``."""
    return source_val.to(BY_NAME[output_dtype].carrier)


def constexpr_blockwise_shift_scale(
    data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> Tensor:
    """``scale * (data - offset)``, each scale for one block of ``data``."""
    steps = data.to(torch.float32, copy=True)  # of a large weight there is one copy
    if offset is not None:
        _in_blocks(steps, offset).sub_(_of_blocks(offset))
    _in_blocks(steps, scale).mul_(_of_blocks(scale))
    return steps


def constexpr_sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As ``constexpr_blockwise_shift_scale`` on the elements that the mask keeps."""
    dense = constexpr_sparse_to_dense(nonzero_data, data_mask)
    return data_mask, _kept(constexpr_blockwise_shift_scale(dense, scale, offset), data_mask)


def constexpr_sparse_to_dense(
    nonzero_data: Tensor, mask: Tensor, shape: tuple[int, ...] | None = None
) -> Tensor:
    """Zeros with ``nonzero_data`` where the mask is set; iOS16 packs the mask into bytes."""
    if shape is not None:
        mask = _unpack(mask, UINT1, shape)
    count = int(mask.count_nonzero())
    if count != nonzero_data.numel():
        raise ExecutionError(
            "the mask of a sparse weight does not fit its data",
            expected=f"{nonzero_data.numel()} elements set",
            found=str(count),
        )
    dense = torch.zeros(mask.shape, dtype=nonzero_data.dtype)
    start = 0
    for part, marks in _parts(dense, mask):
        end = start + int(marks.count_nonzero())
        part[marks != 0] = nonzero_data[start:end]
        start = end
    return dense


def constexpr_lut_to_dense(
    indices: Tensor,
    lut: Tensor,
    shape: tuple[int, ...] | None = None,
    vector_axis: int | None = None,
) -> Tensor:
    """Entries of ``lut`` at ``indices``.

    iOS16: packed indices of a dense ``shape`` and one table. iOS18: ``lut`` is
    (groups per dimension ..., entries, vector size); a vector extends along ``vector_axis``.
    """
    if shape is not None:
        bits = int(lut.numel() - 1).bit_length()
        places = _unpack(indices, BY_NAME[f"uint{bits}"], shape)
        return constexpr_lut_to_dense(places, lut.reshape(*[1] * len(shape), -1, 1))
    entries, vector_size = lut.shape[-2:]
    # Numbers are picked from a line of them five times faster than rows of one (*measured*).
    table = lut.reshape(-1, vector_size) if vector_size > 1 else lut.reshape(-1)
    group = torch.zeros([1] * indices.ndim, dtype=torch.int32)
    for dim, (count, size) in enumerate(zip(lut.shape[:-2], indices.shape, strict=True)):
        if count > 1:
            number = torch.arange(size, dtype=torch.int32) // (size // count)
            group = group * count + number.reshape(-1, *[1] * (indices.ndim - dim - 1))
    first = group * entries
    vectors = torch.empty(*indices.shape, vector_size, dtype=table.dtype)
    # A part of the weight at a time: its wider numbers stay in the cache.
    step = max(1, _PICKED * len(indices) // max(indices.numel(), 1))
    for start in range(0, len(indices), step):
        rows = slice(start, start + step)
        place = indices[rows].to(torch.int32)
        if first.numel() > 1:
            place += first if len(first) == 1 else first[rows]
        made = vectors[rows].view(-1, *table.shape[1:])
        torch.index_select(table, 0, place.reshape(-1), out=made)
    if vector_axis is None:
        return vectors.squeeze(-1)
    axis = vector_axis % indices.ndim
    return vectors.movedim(-1, axis + 1).flatten(axis, axis + 1)


def constexpr_lut_to_sparse(
    indices_mask: Tensor,
    indices_nonzero_data: Tensor,
    lut: Tensor,
    vector_axis: int | None = None,
) -> tuple[Tensor, Tensor]:
    """As ``constexpr_lut_to_dense`` on the elements that the mask keeps."""
    if lut.numel() == lut.shape[-2] and vector_axis is None:  # one table of numbers
        table = lut.reshape(-1)
        parts = indices_nonzero_data.split(_PART)
        return indices_mask, torch.cat([table.index_select(0, part.int()) for part in parts])
    indices = constexpr_sparse_to_dense(indices_nonzero_data, indices_mask)
    dense = constexpr_lut_to_dense(indices, lut, vector_axis=vector_axis)
    mask = indices_mask
    if vector_axis is not None:
        mask = mask.repeat_interleave(lut.shape[-1], vector_axis)
    return mask, _kept(dense, mask)


def _on_axis(parameter: Tensor, rank: int, axis: int | None) -> Tensor:
    """A scalar, or a vector shaped to broadcast along ``axis``; as float."""
    parameter = parameter.to(torch.float32)
    if parameter.ndim == 0 or axis is None:
        return parameter
    sizes = [1] * rank
    sizes[axis] = -1
    return parameter.reshape(sizes)


def _parts(dense: Tensor, mask: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Flat parts of both; torch counts what a mask keeps in numbers of eight bytes."""
    return zip(dense.view(-1).split(_PART), mask.reshape(-1).split(_PART), strict=True)


def _kept(dense: Tensor, mask: Tensor) -> Tensor:
    """The elements that a mask keeps, in order."""
    return torch.cat([part[marks != 0] for part, marks in _parts(dense.contiguous(), mask)])


def _in_blocks(value: Tensor, parameter: Tensor) -> Tensor:
    """A view of ``value`` whose axes are two each: the blocks of ``parameter``, and within them."""
    sizes: list[int] = []
    for size, count in zip(value.shape, parameter.shape, strict=True):
        sizes += [count, size // count]
    return value.view(sizes)


def _of_blocks(parameter: Tensor) -> Tensor:
    """``parameter`` made to broadcast against :func:`_in_blocks`."""
    return parameter.to(torch.float32).reshape([n for size in parameter.shape for n in (size, 1)])


def _unpack(packed: Tensor, dtype: DType, shape: tuple[int, ...]) -> Tensor:
    count = int(np.prod(shape))
    return torch.from_numpy(unpack_bits(packed.numpy(), dtype, count).reshape(shape))


TABLE: dict[str, Semantics] = {
    "constexpr_affine_dequantize": constexpr_affine_dequantize,
    "constexpr_blockwise_shift_scale": constexpr_blockwise_shift_scale,
    "constexpr_cast": constexpr_cast,
    "constexpr_lut_to_dense": constexpr_lut_to_dense,
    "constexpr_lut_to_sparse": constexpr_lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": constexpr_sparse_blockwise_shift_scale,
    "constexpr_sparse_to_dense": constexpr_sparse_to_dense,
    "dequantize": dequantize,
    "quantize": quantize,
}
