"""The weights of a program that can be stored in fewer bits."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lowering.package.blocks import walk
from lowering.package.dtypes import DType
from lowering.package.proto import MIL_pb2
from lowering.package.weights import tensor_type

# Smaller ones are left as they are (*documented*: coremltools' weight_threshold).
MIN_ELEMENTS = 2048
_CONST = "const"
COMPRESSED = "constexpr_"

# Operator and parameter to the axis of the output channels and the one that is summed over
# (*documented*: coremltools' operator definitions). Other constants, such as tables of positions
# that are added, are data more than weights, and small.
_AXES: Mapping[tuple[str, str], tuple[int, int]] = {
    ("conv", "weight"): (0, 1),
    ("conv_transpose", "weight"): (1, 0),
    ("linear", "weight"): (0, 1),
    ("gather", "x"): (0, 1),
    **{
        (op, f"{name}{suffix}"): (0, 1)
        for op in ("lstm", "gru", "rnn")
        for name in ("weight_ih", "weight_hh")
        for suffix in ("", "_back")
    },
}


@dataclass(frozen=True)
class WeightSite:
    """A weight.

    Attributes:
        name: of the value.
        op: the ``const`` operation that makes it.
        dtype, shape: its type.
        readers: operators that read it, as ``conv conv_3``.
        channels: axis of the output channels.
        summed: the axis that is summed over.
        refusal: why it stays as it is, ``""`` where it need not.
    """

    name: str
    op: MIL_pb2.Operation
    dtype: DType
    shape: tuple[int, ...]
    readers: tuple[str, ...]
    channels: int = 0
    summed: int = 1
    refusal: str = ""

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def value(self) -> MIL_pb2.Value:
        """What the constant holds."""
        return constant_value(self.op)


def constant_value(op: MIL_pb2.Operation) -> MIL_pb2.Value:
    """The value of a ``const``: older programs keep it among the attributes."""
    return op.attributes["val"] if "val" in op.attributes else op.inputs["val"].arguments[0].value


def sites(block: MIL_pb2.Block) -> Iterator[WeightSite]:
    """Every large constant of floats of a function's block, in program order."""
    reads: dict[str, list[tuple[MIL_pb2.Operation, str]]] = defaultdict(list)
    constants: dict[str, MIL_pb2.Operation] = {}
    returned = set(block.outputs)
    for op in walk(block):
        if op.type == _CONST:
            constants[op.outputs[0].name] = op
        for inner in op.blocks:
            returned.update(inner.outputs)
        for parameter, argument in op.inputs.items():
            for item in argument.arguments:
                if item.HasField("name"):
                    reads[item.name].append((op, parameter))
    for name, op in constants.items():
        site = _site(name, op, reads[name], constants)
        if site is not None:
            yield site if name not in returned else _refused(site, "the program returns it")


def _site(
    name: str,
    op: MIL_pb2.Operation,
    reads: list[tuple[MIL_pb2.Operation, str]],
    constants: Mapping[str, MIL_pb2.Operation],
) -> WeightSite | None:
    if op.outputs[0].type.WhichOneof("type") != "tensorType":
        return None
    dtype, shape = tensor_type(op.outputs[0].type)
    if not dtype.is_float or math.prod(shape) <= MIN_ELEMENTS:
        return None
    readers = tuple(f"{reader.type} {reader.outputs[0].name}" for reader, _ in reads)
    site = WeightSite(name, op, dtype, shape, readers)
    if constant_value(op).WhichOneof("value") != "blobFileValue":
        return _refused(site, "it is not in the weights file")
    if len(shape) < 2:
        return _refused(site, "it has one axis alone")
    axes = [_axes(reader, parameter, len(shape), constants) for reader, parameter in reads]
    known = [found for found in axes if found is not None]
    if not known or len(known) < len(axes):
        others = [text for text, found in zip(readers, axes, strict=True) if found is None]
        return _refused(site, f"it is no weight of {', '.join(others) or 'any operator'}")
    # Any axis is right; where readers differ, the first one's is as good as another's.
    return WeightSite(name, op, dtype, shape, readers, *known[0])


def _axes(
    reader: MIL_pb2.Operation,
    parameter: str,
    rank: int,
    constants: Mapping[str, MIL_pb2.Operation],
) -> tuple[int, int] | None:
    if reader.type == "matmul" and parameter in ("x", "y"):
        turned = _flag(reader, f"transpose_{parameter}", constants)
        last, before = rank - 1, rank - 2
        # y is (..., summed, output) and x (..., output, summed), unless it is transposed.
        return (last, before) if (parameter == "y") != turned else (before, last)
    return _AXES.get((reader.type, parameter))


def _flag(
    reader: MIL_pb2.Operation, parameter: str, constants: Mapping[str, MIL_pb2.Operation]
) -> bool:
    """A boolean argument; false where it is left out."""
    if parameter not in reader.inputs:
        return False
    item = reader.inputs[parameter].arguments[0]
    value = constant_value(constants[item.name]) if item.HasField("name") else item.value
    return bool(value.immediateValue.tensor.bools.values[0])


def _refused(site: WeightSite, why: str) -> WeightSite:
    return WeightSite(site.name, site.op, site.dtype, site.shape, site.readers, refusal=why)
