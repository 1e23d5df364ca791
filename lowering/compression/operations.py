"""Decoders as operations of a MIL program, in the form of its version."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from lowering.compression.encoding import DecodeOp, Part
from lowering.compression.sites import WeightSite
from lowering.package.dtypes import BY_PROTO, INT8, INT32, UINT8, UINT32, DType
from lowering.package.proto import MIL_pb2
from lowering.package.weights import pack_bits

# The version of the operators that decode in blocks and groups: Core ML 8, iOS 18.
_IOS18_OPSET = 8
# *Seen* in files of coremltools 9.0: smaller constants are spelled out in the program.
_IN_FILE = 10
_WEIGHTS_FILE = "@model_path/weights/weight.bin"
_CODES = {dtype.name: code for code, dtype in BY_PROTO.items()}

# Writes elements to the weights file, and says where they are.
Put = Callable[[np.ndarray, DType], int]


def opset_version(opset: str) -> int:
    """The number of an opset such as ``CoreML7``; 0 where it has none."""
    found = re.fullmatch(r"CoreML(\d+)", opset)
    return 0 if found is None else int(found[1])


def is_ios18(opset: str) -> bool:
    """Whether a function of this opset has the decoders of iOS 18."""
    return opset_version(opset) >= _IOS18_OPSET


def operations(
    site: WeightSite, decoders: Sequence[DecodeOp], put: Put, opset: str
) -> list[MIL_pb2.Operation]:
    """The operations that make a weight, the last of them under the weight's own name."""
    made = []
    before: list[str] = []
    for decoder in decoders:
        is_last = decoder is decoders[-1]
        operation = MIL_pb2.Operation(type=decoder.type)
        if is_last:
            operation.outputs.append(site.op.outputs[0])
        else:
            _results(operation, site, decoder)
        _attribute(operation, "name", _text(operation.outputs[-1].name))
        if is_ios18(opset):
            for parameter, part in decoder.parts.items():
                argument = operation.inputs[parameter].arguments.add()
                argument.value.CopyFrom(_stored(part, put))
            for parameter, place in decoder.reads.items():
                operation.inputs[parameter].arguments.add(name=before[place])
        else:
            operation.type, parts = _of_ios16(site, decoder)
            for parameter, part in parts.items():
                _attribute(operation, parameter, _stored(part, put))
        before = [output.name for output in operation.outputs]
        made.append(operation)
    return made


def _results(operation: MIL_pb2.Operation, site: WeightSite, decoder: DecodeOp) -> None:
    """Mask and numbers of a decoder whose weight is made by the next one."""
    marks = decoder.parts["indices_mask"]
    kept = decoder.parts["indices_nonzero_data"].array.size
    mask = operation.outputs.add(name=f"{site.name}_mask")
    mask.type.CopyFrom(_type(marks.dtype, site.shape))
    numbers = operation.outputs.add(name=f"{site.name}_numbers")
    numbers.type.CopyFrom(_type(site.dtype, (kept,)))


def _of_ios16(site: WeightSite, decoder: DecodeOp) -> tuple[str, dict[str, Part]]:
    """The older form: sub-byte elements in bytes, the shape beside them."""
    parts = dict(decoder.parts)
    if decoder.type == "constexpr_blockwise_shift_scale":
        scale = parts["scale"].array.reshape(-1)
        return "constexpr_affine_dequantize", {
            "quantized_data": parts["data"],
            "scale": Part(scale, site.dtype),
            "zero_point": Part(np.zeros(scale.shape, np.int8), INT8),
            "axis": Part(np.array(site.channels, np.int32), INT32),
        }
    packed = "indices" if "indices" in parts else "mask"
    parts[packed] = Part(_bytes(parts[packed]), UINT8)
    if "lut" in parts:
        parts["lut"] = Part(parts["lut"].array.reshape(-1), site.dtype)
    return decoder.type, {**parts, "shape": Part(np.array(site.shape, np.uint32), UINT32)}


def _bytes(part: Part) -> np.ndarray:
    return pack_bits(part.array, part.dtype) if part.dtype.is_sub_byte else part.array.reshape(-1)


def _stored(part: Part, put: Put) -> MIL_pb2.Value:
    value = MIL_pb2.Value(type=_type(part.dtype, part.array.shape))
    if part.array.size >= _IN_FILE:
        value.blobFileValue.fileName = _WEIGHTS_FILE
        value.blobFileValue.offset = put(part.array, part.dtype)
    elif part.dtype is INT32:
        value.immediateValue.tensor.ints.values.extend(part.array.reshape(-1).tolist())
    else:
        value.immediateValue.tensor.bytes.values = _bytes(part).tobytes()
    return value


def _type(dtype: DType, shape: Sequence[int]) -> MIL_pb2.ValueType:
    found = MIL_pb2.ValueType()
    found.tensorType.dataType = _CODES[dtype.name]
    found.tensorType.rank = len(shape)
    for size in shape:
        found.tensorType.dimensions.add().constant.size = size
    return found


def _text(text: str) -> MIL_pb2.Value:
    value = MIL_pb2.Value()
    value.type.tensorType.dataType = MIL_pb2.STRING
    value.immediateValue.tensor.strings.values.append(text)
    return value


def _attribute(operation: MIL_pb2.Operation, name: str, value: MIL_pb2.Value) -> None:
    operation.attributes[name].CopyFrom(value)
