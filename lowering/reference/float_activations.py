"""A package without the integers that its activations become while it runs.

What those cost is no fault of the program, and far more than rounding: a verification looks at the
program without them first.
"""

from __future__ import annotations

from dataclasses import replace

from lowering.package.blocks import walk
from lowering.package.open import Package
from lowering.package.proto import MIL_pb2

_TO, _FROM = "quantize", "dequantize"


def has_integer_activations(block: MIL_pb2.Block) -> bool:
    """Whether a function makes integers of values and takes them back."""
    return any(op.type == _TO for op in walk(block))


def with_float_activations(package: Package, function: str) -> Package:
    """The package with the identity in the place of each such operator of a function."""
    program = MIL_pb2.Program()
    program.CopyFrom(package.program)
    spec = program.functions[function]
    block = spec.block_specializations[spec.opset]
    types = {item.name: item.type for item in spec.inputs}
    integers = set()
    for op in walk(block):
        for output in op.outputs:
            types[output.name] = output.type
        source = op.inputs["input"].arguments[0].name if op.type in (_TO, _FROM) else ""
        if op.type == _TO:
            integers.add(op.outputs[0].name)
        elif source not in integers:
            continue  # another operator, or a constant that is taken back from integers
        value = MIL_pb2.Argument()
        value.CopyFrom(op.inputs["input"])
        op.inputs.clear()
        op.inputs["x"].CopyFrom(value)
        op.type = "identity"
        op.outputs[0].type.CopyFrom(types[source])
    return replace(package, program=program)
