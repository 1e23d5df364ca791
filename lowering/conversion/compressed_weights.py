"""Weights that were compressed in torch become ``constexpr_*`` operators of the package.

coremltools builds these operators where its own front end reads a weight; here it builds ours, from
the encoding that came through the passes with the weight. What a palette decodes to is the weight
that torch computes with, rounded to the package's precision: each entry is such a value. Integers
and zero points are torch's own; their scale is rounded to the package's precision first, as
``constexpr`` operators have it in the type of their result, and the product once more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil.frontend.torch.converter import TorchConverter
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import Var, types
from torch import Tensor
from torch.export import ExportedProgram

from frontend.compressed import warn_of_dense
from frontend.encoding import (
    HALF_BITS,
    PALETTE_BITS,
    Encoding,
    EncodingError,
    palette_of,
    spread,
)

# The largest relative error of a normal number of float16; its smaller ones have larger errors.
_HALF_ROUNDING = 2.0**-11
_NEEDS_IOS18 = "convert with minimum_deployment_target=ct.target.iOS18"
# What writes the operator: takes its name.
_Writer = Callable[[str], Var]


@contextmanager
def compressed_weights(
    program: ExportedProgram, target: ct.target, *, fp16: bool
) -> Iterator[None]:
    """Store compressed what was compressed in torch, for the time of one conversion.

    The caller holds the conversion lock. Weights that ``target`` cannot hold compressed are stored
    dense, with a ``DenseWeightWarning`` that says which and why.
    """
    writers: dict[str, _Writer] = {}
    declined: list[str] = []
    for spec in program.graph_signature.input_specs:
        name = str(spec.target)
        encoding = Encoding.of(program.state_dict, name)
        if encoding is None:
            continue
        weight = program.state_dict[name].detach()
        try:
            writers[spec.arg.name] = _writer(encoding, weight, target, fp16)
        except EncodingError as error:
            declined.append(f"{name}: {error}")
    warn_of_dense(declined)

    def is_ours(self: TorchConverter, name: str) -> bool:
        return name in writers

    def write(self: TorchConverter, value: np.ndarray, name: str) -> Var:
        return writers[name](name)

    with (
        mock.patch.object(TorchConverter, "_has_compression_info", is_ours),
        mock.patch.object(TorchConverter, "_construct_compression_op", write),
    ):
        yield


def _writer(encoding: Encoding, weight: Tensor, target: ct.target, fp16: bool) -> _Writer:
    """Raises ``EncodingError`` where ``target`` has no operator for it."""
    is_new = target >= ct.target.iOS18
    if encoding.scales is not None and fp16:
        lost = float((encoding.scales.half() / encoding.scales - 1).abs().max())
        if lost > _HALF_ROUNDING:
            raise EncodingError(
                f"its scales are beyond float16, which would change its values by {lost:.2%}; "
                "convert with compute_precision=ct.precision.FLOAT32"
            )
    if not encoding.bits:
        zeros = 1 - int(weight.count_nonzero()) / weight.numel()
        if zeros * HALF_BITS <= 1:  # what the mask costs
            raise EncodingError(f"{zeros:.0%} of its values are zero: sparse, it would be larger")
        return _sparse(encoding, weight) if is_new else _sparse_bytes(weight)
    if encoding.is_sparse and is_new and encoding.lanes is None:  # vectors have their zeros
        return _sparse(encoding, weight)
    dense = replace(encoding, is_sparse=False)
    if encoding.palettes is not None:
        return _palette(dense, weight) if is_new else _one_palette(dense, weight)
    return _integers(dense, weight) if is_new else _integers_by_channel(dense, weight)


def _palette(encoding: Encoding, weight: Tensor) -> _Writer:
    palette = encoding.palette(weight)
    arguments: dict[str, Any] = {
        "indices": _as_bits(palette.indices, encoding.bits),
        "lut": palette.tables.unsqueeze(-1).numpy(),
    }
    if palette.axis is not None:
        arguments |= {"lut": palette.tables.numpy(), "vector_axis": np.int32(palette.axis)}
    return lambda name: mb.constexpr_lut_to_dense(**arguments, name=name)


def _one_palette(encoding: Encoding, weight: Tensor) -> _Writer:
    """Before iOS18 a weight has one palette; that of all blocks may have more entries."""
    if encoding.lanes is not None:
        raise EncodingError(f"its palette is of vectors; {_NEEDS_IOS18}")
    values = len(weight.unique())
    bits = next((b for b in PALETTE_BITS if b >= encoding.bits and values <= 2**b), None)
    if bits is None:
        raise EncodingError(f"it has {values} values in several palettes; {_NEEDS_IOS18}")
    palette = palette_of(weight, [1] * weight.ndim, bits)
    arguments = {
        "indices": _packed(palette.indices, bits),
        "lut": palette.tables.flatten().numpy(),
        "shape": np.array(weight.shape, np.uint32),
    }
    return lambda name: mb.constexpr_lut_to_dense(**arguments, name=name)


def _integers(encoding: Encoding, weight: Tensor) -> _Writer:
    scaling = _scaling(encoding)
    data = _as_bits(encoding.integers(weight), _stored_bits(encoding), encoding.is_signed)
    return lambda name: mb.constexpr_blockwise_shift_scale(data=data, **scaling, name=name)


def _integers_by_channel(encoding: Encoding, weight: Tensor) -> _Writer:
    """Before iOS18 there are integers of 8 bits, and one scale for each channel of one axis."""
    assert encoding.scales is not None
    points = encoding.zero_points
    if points is None:
        points = torch.zeros([1] * weight.ndim, dtype=torch.int64)
    axes = {
        axis
        for grid in (encoding.scales, points)
        for axis in range(weight.ndim)
        if grid.shape[axis] > 1
    }
    if len(axes) > 1:
        raise EncodingError(f"it has scales for blocks of several axes; {_NEEDS_IOS18}")
    axis = next(iter(axes), 0)
    sizes = [size if axes and n == axis else 1 for n, size in enumerate(weight.shape)]
    shape = [-1] if axes else []
    arguments = {
        "quantized_data": _as_bits(encoding.integers(weight), 8, encoding.is_signed),
        "zero_point": _as_bits(spread(points, sizes).reshape(shape), 8, encoding.is_signed),
        "scale": spread(encoding.scales, sizes).reshape(shape).numpy(),
        "axis": np.int32(axis),
    }
    return lambda name: mb.constexpr_affine_dequantize(**arguments, name=name)


def _sparse(encoding: Encoding, weight: Tensor) -> _Writer:
    """Where the values are that are not zero, and they or their codes."""
    kept = weight != 0
    mask = _as_bits(kept.to(torch.int64), 1)
    codes: dict[str, Any]
    if encoding.palettes is not None:
        palette = encoding.palette(weight)
        decode = mb.constexpr_lut_to_sparse
        codes = {
            "indices_mask": mask,
            "indices_nonzero_data": _as_bits(palette.indices[kept], encoding.bits),
            "lut": palette.tables.unsqueeze(-1).numpy(),
        }
    elif encoding.scales is not None:
        integers, bits = encoding.integers(weight)[kept], _stored_bits(encoding)
        decode = mb.constexpr_sparse_blockwise_shift_scale
        codes = {
            "data_mask": mask,
            "nonzero_data": _as_bits(integers, bits, encoding.is_signed),
            **_scaling(encoding),
        }
    else:
        values = weight[kept].numpy()
        return lambda name: mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask, name=name)

    def write(name: str) -> Var:
        where, data = decode(**codes, name=f"{name}_nonzero")
        return mb.constexpr_sparse_to_dense(nonzero_data=data, mask=where, name=name)

    return write


def _sparse_bytes(weight: Tensor) -> _Writer:
    """Before iOS18 the mask is packed into bytes."""
    kept = weight != 0
    arguments = {
        "nonzero_data": weight[kept].numpy(),
        "mask": _packed(kept.to(torch.int64), 1),
        "shape": np.array(weight.shape, np.uint32),
    }
    return lambda name: mb.constexpr_sparse_to_dense(**arguments, name=name)


def _scaling(encoding: Encoding) -> dict[str, np.ndarray]:
    assert encoding.scales is not None
    if encoding.zero_points is None:
        return {"scale": encoding.scales.numpy()}
    pairs = zip(encoding.scales.shape, encoding.zero_points.shape, strict=True)
    sizes = [math.lcm(*pair) for pair in pairs]  # both grids have one shape there
    points = spread(encoding.zero_points, sizes)
    return {
        "scale": spread(encoding.scales, sizes).numpy(),
        "offset": _as_bits(points, _stored_bits(encoding), encoding.is_signed),
    }


def _stored_bits(encoding: Encoding) -> int:
    """Core ML has integers of 4 and 8 bits."""
    return 4 if encoding.bits <= 4 else 8


def _packed(codes: Tensor, bits: int) -> np.ndarray:
    """Bytes of the low bits of each code, the lowest first, without gaps."""
    each = (codes.numpy().reshape(-1, 1) >> np.arange(bits)) & 1
    return np.packbits(each.astype(np.uint8).reshape(-1), bitorder="little")


def _as_bits(codes: Tensor, bits: int, is_signed: bool = False) -> np.ndarray:
    kind = types.string_to_builtin(f"{'u' * (not is_signed)}int{bits}")
    return codes.numpy().astype(types.nptype_from_builtin(kind))
