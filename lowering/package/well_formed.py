"""Whether a program holds together: what every reader of one takes for granted.

A file can be sound protobuf and say what no program can: values that nobody makes, constants
without a value, loops without a body. All of it is looked at once, when a package is opened.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeAlias

from lowering.package import proto
from lowering.package.kinds import damaged, undefined
from lowering.package.weights import Weights, check_stored, tensor_type

Block: TypeAlias = proto.MIL_pb2.Block
Function: TypeAlias = proto.MIL_pb2.Function
Named: TypeAlias = proto.MIL_pb2.NamedValueType
Operation: TypeAlias = proto.MIL_pb2.Operation
Value: TypeAlias = proto.MIL_pb2.Value
ValueType: TypeAlias = proto.MIL_pb2.ValueType

# The field of an immediate value by the kind of its type.
_IMMEDIATE = {"tensorType": "tensor", "listType": "list"}
# Operators with blocks, and how many.
_BLOCKS = {"cond": 2, "while_loop": 2}
_LOOP = "while_loop"


def check_function(function: Function, body: Block, weights: Weights) -> None:
    """That a function holds together.

    Args:
        function: for its inputs.
        body: its operations.
        weights: where its constants are kept.

    Raises:
        PackageError: it does not; the operation or value is named.
    """
    defined: set[str] = set()
    for item in function.inputs:
        _define(item, defined, "an input of the function")
    _Checker(weights).block(body, defined)


def values_of(operation: Operation) -> Iterator[Value]:
    """Every constant that ``operation`` spells out."""
    yield from operation.attributes.values()
    for argument in operation.inputs.values():
        for item in argument.arguments:
            if item.HasField("value"):
                yield item.value


class _Checker:
    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def block(self, block: Block, outside: set[str]) -> None:
        """That ``block`` holds together where the names of ``outside`` are known."""
        own: set[str] = set()
        for item in block.inputs:
            _define(item, own, "an input of a block")
        known = outside | own
        for operation in block.operations:
            self._operation(operation, known)
            for output in operation.outputs:
                _define(output, own, _described(operation))
                known.add(output.name)
        for name in block.outputs:
            if name not in known:
                raise undefined(name)

    def _operation(self, operation: Operation, known: set[str]) -> None:
        described = _described(operation)
        for key, argument in operation.inputs.items():
            for item in argument.arguments:
                if item.WhichOneof("binding") is None:
                    raise damaged(f"a name or a value for {key!r}", "neither", described)
                if item.HasField("name") and item.name not in known:
                    raise undefined(item.name, described)
        for value in values_of(operation):
            self._value(value, described)
        if operation.type == "const":
            _check_constant(operation, described)
        _check_blocks(operation, described)
        for inner in operation.blocks:
            self.block(inner, known)

    def _value(self, value: Value, described: str) -> None:
        _check_type(value.type, described)
        kind = value.WhichOneof("value")
        if kind == "blobFileValue":
            self._weights.check(value)
            return
        expected = _IMMEDIATE.get(value.type.WhichOneof("type"))
        found = value.immediateValue.WhichOneof("value") if kind else None
        if expected is None or found != expected:
            wanted = f"a constant that is a {expected or 'tensor or a list'}"
            raise damaged(wanted, f"{found or 'no value'}", described)
        if expected == "list":
            for item in value.immediateValue.list.values:
                self._value(item, described)
            return
        dtype, shape = tensor_type(value.type)
        if min(shape, default=0) < 0:
            raise damaged("a constant of known size", "one of unknown size", described)
        check_stored(value.immediateValue.tensor, dtype, math.prod(shape), described)


def _check_constant(operation: Operation, described: str) -> None:
    if len(operation.outputs) != 1:
        raise damaged("a constant with one result", str(len(operation.outputs)), described)
    if "val" in operation.attributes:
        return
    found = list(operation.inputs["val"].arguments) if "val" in operation.inputs else []
    if len(found) != 1 or not found[0].HasField("value"):
        raise damaged("a constant with one value 'val'", "none", described)


def _check_blocks(operation: Operation, described: str) -> None:
    """That an operation has the blocks of its kind, and that these take and give what it does."""
    count = _BLOCKS.get(operation.type, 0)
    if len(operation.blocks) != count:
        raise damaged(f"{count} blocks", str(len(operation.blocks)), described)
    results = len(operation.outputs)
    if operation.type == "cond":
        expected = [(0, results), (0, results)]
    elif operation.type == _LOOP:
        carried = len(operation.inputs["loop_vars"].arguments) if operation.inputs else 0
        if carried != results:
            raise damaged(f"{results} variables of the loop", str(carried), described)
        expected = [(results, 1), (results, results)]
    else:
        return
    for inner, (takes, gives) in zip(operation.blocks, expected, strict=True):
        found = (len(inner.inputs), len(inner.outputs))
        if found != (takes, gives):
            raise damaged(
                f"a block of {takes} inputs and {gives} outputs",
                f"one of {found[0]} and {found[1]}",
                described,
            )


def _define(item: Named, names: set[str], described: str) -> None:
    if item.name in names:
        raise damaged("values with names of their own", f"{item.name!r} is made twice", described)
    _check_type(item.type, described)
    names.add(item.name)


def _check_type(value_type: ValueType, described: str) -> None:
    kind = value_type.WhichOneof("type")
    if kind is None:
        raise damaged("values with a type", "one without", described)
    if kind == "stateType":
        if value_type.stateType.wrappedType.WhichOneof("type") != "tensorType":
            raise damaged("a state that is a tensor", "another one", described)
        _, shape = tensor_type(value_type.stateType.wrappedType)
        if min(shape, default=0) < 0:
            raise damaged("a state of known size", "one of unknown size", described)
    elif kind == "tensorType":
        tensor_type(value_type)


def _described(operation: Operation) -> str:
    strings = ()
    if "name" in operation.attributes:
        strings = operation.attributes["name"].immediateValue.tensor.strings.values
    outputs = [item.name for item in operation.outputs]
    return f"{operation.type} {next(iter(strings or outputs), '')}".strip()
