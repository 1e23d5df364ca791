"""Weights of one 4-bit palette, decoded from their bytes as they lie in the file.

A byte holds the places of two numbers in the palette, so a table of all bytes gives pairs of
numbers. To unpack the places first takes three times as long (*measured*).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lowering.package.dtypes import UINT4
from lowering.package.proto import MIL_pb2
from lowering.package.weights import Weights, tensor_type
from lowering.reference.constants import Constants

# Bytes that are decoded at a time: their wider numbers stay in the cache.
_PART = 1 << 17


def decoded(op: MIL_pb2.Operation, weights: Weights) -> Tensor | None:
    """What a ``constexpr_lut_to_dense`` makes; ``None`` for others, and for other palettes.

    There may be a palette for each group of slices along the first axis.
    """
    if op.type != "constexpr_lut_to_dense" or not {"indices", "lut"} <= set(op.inputs):
        return None
    if "vector_axis" in op.inputs or any(item.HasField("name") for item in _given(op)):
        return None
    indices, lut = (op.inputs[key].arguments[0].value for key in ("indices", "lut"))
    dtype, shape = tensor_type(indices.type)
    kind, sizes = tensor_type(lut.type)
    count = sizes[0] if sizes else 0
    fits = (
        dtype is UINT4
        and indices.WhichOneof("value") == "blobFileValue"
        and kind.is_float
        and kind.carried_as == "float32"
        and len(sizes) == len(shape) + 2
        and sizes[1:] == (*[1] * (len(shape) - 1), 16, 1)
        and count > 0
        and shape[0] % count == 0
        and math.prod(shape) // count % 2 == 0
    )
    if not fits:
        return None
    table = Constants(weights).carried(lut)
    assert isinstance(table, Tensor), "the type says so"
    found = _of_bytes(weights.packed(indices), table.reshape(count, 16)).reshape(shape)
    weights.release(indices)
    return found


def _given(op: MIL_pb2.Operation) -> list[MIL_pb2.Argument.Binding]:
    return [item for argument in op.inputs.values() for item in argument.arguments]


def _of_bytes(packed: np.ndarray, palettes: Tensor) -> Tensor:
    """Numbers (groups, 2 x bytes) of bytes in order, from palettes (groups, 16)."""
    count = len(palettes)
    rows = torch.from_numpy(packed).reshape(count, -1)
    made = torch.empty(count, 2 * rows.shape[1])
    low = palettes.unsqueeze(1).expand(count, 16, 16)
    # Two numbers side by side are one of eight bytes, which torch picks as fast as one of four.
    pairs = torch.stack([low, low.transpose(1, 2)], -1).view(torch.int64).reshape(count, 256)
    for row, pair, numbers in zip(rows, pairs, made.view(torch.int64), strict=True):
        for part, place in zip(row.split(_PART), numbers.split(_PART), strict=True):
            torch.index_select(pair, 0, part.int(), out=place)
    return made
