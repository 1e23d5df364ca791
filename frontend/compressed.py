"""Reads how the weights of a program were compressed in torch.

``coremltools.optimize.torch`` leaves the dense weight in its place and registers beside it, as
buffers of the same module, what it was made of: ``_COREML_/weight/lut``, ``…/quantization_scale``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.export import ExportedProgram

from frontend.encoding import PALETTE_BITS, Encoding, spread

_PREFIX = "_COREML_/"
# Numbers of coremltools' ``CompressionType``.
_PRUNED = 1


def with_encodings(program: ExportedProgram) -> ExportedProgram:
    """The same program; its state has an :class:`Encoding` for each weight that was compressed."""
    state = program.state_dict
    targets = [spec.target for spec in program.graph_signature.input_specs]
    homes = {_place(state[name]): name for name in targets if name is not None and name in state}
    found: dict[str, Tensor] = {}
    for name, fields in _records(state).items():
        home = name if name in targets else homes.get(_place(state[name]))
        if home is not None and Encoding.of(state, home) is None:
            found |= _read(state[home], fields).entries(home)
    if not found:
        return program
    twin = copy.copy(program)
    twin._state_dict = {**state, **found}
    return twin


def _place(tensor: Tensor) -> tuple[int, tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape)


def _records(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """What coremltools registered, by the weight's name and by field."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        module, mark, rest = key.rpartition(_PREFIX)
        parameter, _, field = rest.partition("/")
        if mark and field and module + parameter in state:
            found.setdefault(module + parameter, {})[field] = value
    return found


def _read(weight: Tensor, fields: Mapping[str, Tensor]) -> Encoding:
    kinds = fields["compression_type"].tolist() if "compression_type" in fields else []
    is_sparse = _PRUNED in kinds
    if "lut" in fields:
        return _palette(weight, fields, is_sparse)
    if "quantization_scale" in fields:
        return _integers(weight, fields, is_sparse)
    return Encoding(is_sparse=is_sparse)


def _palette(weight: Tensor, fields: Mapping[str, Tensor], is_sparse: bool) -> Encoding:
    """``lut``: the blocks along each axis, entries, and the length of a vector, if it is there.

    A palette whose entries are multiplied by a scale for each channel is one for each channel: so
    every entry is a value of the weight. Integers in the place of entries become their values.
    """
    lut = fields["lut"]
    blocks, entries = lut.shape[: weight.ndim], lut.shape[weight.ndim]
    bits = next(bits for bits in PALETTE_BITS if 2**bits >= entries)
    numbers = torch.arange(math.prod(blocks)).reshape(blocks)
    if "palettization_scale" in fields:
        scales = _of_rank(fields["palettization_scale"], weight.ndim)
        sizes = [max(pair) for pair in zip(numbers.shape, scales.shape, strict=True)]
        kinds = spread(scales, sizes).unique(return_inverse=True)[1]
        numbers = spread(numbers, sizes) * (int(kinds.max()) + 1) + kinds
    return Encoding(bits, is_sparse, palettes=numbers)


def _integers(weight: Tensor, fields: Mapping[str, Tensor], is_sparse: bool) -> Encoding:
    bits = int(fields["quantization_n_bits"])
    scales = _of_rank(fields["quantization_scale"], weight.ndim).to(torch.float32)
    zeros = fields.get("zero_point")
    points = None if zeros is None else _of_rank(zeros, weight.ndim).to(torch.int64)
    # Integers without a sign have a zero point without one.
    is_signed = zeros is None or zeros.dtype.is_signed
    return Encoding(bits, is_sparse, is_signed, scales=scales, zero_points=points)


def _of_rank(grid: Tensor, rank: int) -> Tensor:
    return grid.detach().reshape(*grid.shape, *[1] * (rank - grid.ndim))
