"""Reads how the weights of a program were compressed in torch.

``coremltools.optimize.torch`` leaves the dense weight in its place and registers beside it, as
buffers of the same module, what it was made of: ``_COREML_/weight/lut``, ``…/quantization_scale``.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor
from torch.export import ExportedProgram

from frontend.encoding import (
    PALETTE_BITS,
    DenseWeightWarning,
    Encoding,
    EncodingError,
    Place,
    integers_of,
    place,
    spread,
)
from frontend.program import Draft

_PREFIX = "_COREML_/"
# Numbers of coremltools' ``CompressionType``.
_PRUNED = 1


def with_encodings(
    program: ExportedProgram,
    known: Mapping[Place, Encoding | EncodingError] = MappingProxyType({}),
) -> ExportedProgram:
    """The same program; its state has an :class:`Encoding` for each weight that was compressed.

    Args:
        program: as it was exported, before its numbers are made float32.
        known: encodings that were found before the export, by the place of the dense weight.

    Warns:
        DenseWeightWarning: a weight was compressed, but its values are others.
    """
    state = program.state_dict
    targets = [spec.target for spec in program.graph_signature.input_specs]
    homes = {place(state[name]): name for name in targets if name is not None and name in state}
    readers: dict[str, Callable[[], Encoding]] = {}
    for name, fields in _records(state).items():
        home = name if name in targets else homes.get(place(state[name]))
        if home is not None and Encoding.of(state, home) is None:
            readers[home] = partial(_read, state[home], fields)
    for where, encoding in known.items():
        if where in homes:
            readers[homes[where]] = partial(_given, state[homes[where]], encoding)
    found: dict[str, Tensor] = {}
    dense: list[str] = []
    for home, read in readers.items():
        try:
            found |= read().entries(home)
        except EncodingError as error:
            dense.append(f"{home}: {error}")
    warn_of_dense(dense)
    if not found:
        return program
    twin = copy.copy(program)
    twin._state_dict = {**state, **found}
    return twin


def settle_weights(draft: Draft) -> None:
    """Gives integers in half precision, float32 by now, the values that they stand for."""
    for node, tensor in draft.lifted():
        encoding = draft.encoding(node)
        if encoding is None or encoding.scales is None:
            continue
        exact = encoding.exact(tensor.detach())
        if not torch.equal(exact, tensor):
            draft.set_constant(node, exact)


def warn_of_dense(weights: Sequence[str]) -> None:
    """Says which weights lose their compression, each with its reason."""
    if weights:
        warnings.warn(
            "weights that were compressed in torch are stored dense: " + "; ".join(weights),
            DenseWeightWarning,
            stacklevel=3,
        )


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
    lanes = None
    if "vector_axis" in fields and lut.shape[-1] > 1:
        axis = int(fields["vector_axis"])
        lanes = torch.arange(weight.shape[axis]) % lut.shape[-1]
        lanes = lanes.reshape([-1 if n == axis else 1 for n in range(weight.ndim)])
    return Encoding(bits, is_sparse, palettes=numbers, lanes=lanes)


def _integers(weight: Tensor, fields: Mapping[str, Tensor], is_sparse: bool) -> Encoding:
    scales = _of_rank(fields["quantization_scale"], weight.ndim).to(torch.float32)
    points = torch.zeros_like(scales)
    if "zero_point" in fields:
        points = _of_rank(fields["zero_point"], weight.ndim)
    points = points.to(torch.int64)
    held = Encoding(8, scales=scales, zero_points=points)
    codes = held.codes(weight.detach().to(torch.float32))
    return _given(weight, replace(integers_of(codes, scales, points), is_sparse=is_sparse))


def _given(weight: Tensor, encoding: Encoding | EncodingError) -> Encoding:
    """Proves that ``weight`` is ``encoding``, but for the rounding of its dtype."""
    if isinstance(encoding, EncodingError):
        raise encoding
    values = weight.detach().to(torch.float32)
    lost = torch.finfo(weight.dtype).eps
    if not bool(((encoding.exact(values) - values).abs() <= lost * values.abs()).all()):
        raise EncodingError("its values are not those of its integers and scales")
    return encoding


def _of_rank(grid: Tensor, rank: int) -> Tensor:
    return grid.detach().reshape(*grid.shape, *[1] * (rank - grid.ndim))
