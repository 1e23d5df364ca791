"""MIL programs as facts: the only file of the planner that knows how a program is written."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from frontend.errors import about
from lowering.package import proto
from lowering.package.blocks import walk
from lowering.package.kinds import damaged, operands_fit, undefined
from lowering.package.metadata_entry import of_function
from lowering.package.open import MAIN, ModelLike, open_package
from lowering.package.source_table import SourceTable
from lowering.package.weights import Weights, tensor_type
from lowering.planner.facts import UNKNOWN_DIM, OpFacts, TensorFacts
from lowering.planner.targets import load_data

Operation: TypeAlias = proto.MIL_pb2.Operation
_Named: TypeAlias = proto.MIL_pb2.NamedValueType

# Constant operands that are data like the runtime ones; all other constants are parameters.
_DATA_OPERANDS = ("x", "y", "a", "b", "values", "data", "query", "key", "value", "attn_mask")
# Longer constants are weights; their values are never read.
_MAX_ATTRIBUTE_ELEMENTS = 64
# Weights that the compiler unpacks: the axis a block scale must not vary on, by operator.
_SUMMED_AXIS = {"conv": 1, "linear": 1, "matmul": -2}
_UNPACKED = "constexpr_"


@dataclass(frozen=True)
class ProgramOp:
    """One operator in its program.

    Attributes:
        facts: shapes, dtypes, attributes.
        reads: names of the runtime values it reads.
        writes: names of the values it makes.
    """

    facts: OpFacts
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class ReadProgram:
    """A program as the planner sees it.

    Attributes:
        ops: operators in program order; constants and their decompression left out, operators of
            nested blocks after the one that holds them.
        inputs: names of the program's inputs.
        outputs: names of its results.
        sources: where its operators come from.
        label: how messages name it.
        metadata: user-defined metadata of its package.
        weight_bytes: bytes of its package's weights, as stored.
    """

    ops: tuple[ProgramOp, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sources: SourceTable
    label: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    weight_bytes: int = 0


def read_program(
    model: ModelLike | ReadProgram, sources: SourceTable | None = None, function_name: str = MAIN
) -> ReadProgram:
    """One function of ``model``; a program that was read before is returned as it is.

    Args:
        model: see ``ModelLike``.
        sources: where operators come from; read from the package's metadata by default.
        function_name: the default function for ``main`` where none is called so.

    Raises:
        PackageError: the file is missing or corrupt, or holds no ML Program, or no such function.
    """
    if isinstance(model, ReadProgram):
        return model
    package = open_package(model)
    functions = package.program.functions
    name = package.function_name(function_name)
    if function_name == MAIN and name not in functions:
        name = min(functions, default=name)
    function, body = package.function(name)
    metadata = of_function(package.metadata, name)
    with about(package.label):
        ops = tuple(_Reader(package.weights, function.inputs).read(body))
        if sources is None:
            sources = SourceTable.from_metadata(metadata)
    return ReadProgram(
        ops,
        tuple(item.name for item in function.inputs),
        tuple(body.outputs),
        sources,
        package.label,
        metadata,
        package.weights.stored_bytes(),
    )


class _Operand(NamedTuple):
    """One value that an operation reads.

    Attributes:
        parameter: the operation's name for it, such as ``weight``.
        tensor: shape and dtype.
        value: of a constant that the file spells out, ``None`` for others.
        made_by: the operation that makes it, ``None`` for inputs and values written in place.
        name: of a runtime value, ``""`` for a constant.
    """

    parameter: str
    tensor: TensorFacts
    value: proto.MIL_pb2.Value | None
    made_by: Operation | None
    name: str


class _Reader:
    """Reads operations in program order; knows the type and maker of every value before them."""

    def __init__(self, weights: Weights, inputs: Iterable[_Named]) -> None:
        self._weights = weights
        self._types = {item.name: item.type for item in inputs}
        self._makers: dict[str, Operation] = {}

    def read(self, body: proto.MIL_pb2.Block) -> Iterator[ProgramOp]:
        """The operations of ``body`` but constants and their decompression."""
        for operation in walk(body):
            for inner in operation.blocks:
                self._types |= {item.name: item.type for item in inner.inputs}
            for output in operation.outputs:
                self._types[output.name] = output.type
                self._makers[output.name] = operation
            if not _is_constant(operation):
                with operands_fit(f"{operation.type} {_name(operation)}"):
                    reads = tuple(item.name for item in self._operands(operation) if item.name)
                    writes = tuple(output.name for output in operation.outputs)
                    facts = self._facts(operation)
                yield ProgramOp(facts, reads, writes)

    def _facts(self, operation: Operation) -> OpFacts:
        inputs: list[TensorFacts] = []
        constants: list[TensorFacts] = []
        attributes: dict[str, Any] = {}
        for item in self._operands(operation):
            tensor = item.tensor
            if tensor.const and not tensor.shape and tensor.dtype == "string":
                attributes[item.parameter] = self._plain(item)
                continue
            is_data = not tensor.const or (item.parameter in _DATA_OPERANDS and tensor.shape)
            (inputs if is_data else constants).append(tensor)
            if tensor.const and tensor.elements <= _MAX_ATTRIBUTE_ELEMENTS and item.value:
                attributes[item.parameter] = self._plain(item)
            if tensor.const and tensor.elements > 1 and tensor.dtype.startswith("fp"):
                stored = attributes.get("stored_bytes", 0.0)
                attributes["stored_bytes"] = stored + self._stored_bytes(item)
                attributes |= self._compression(operation.type, item)
        outputs = tuple(_tensor(output.type, "", False) for output in operation.outputs)
        return OpFacts(
            operation.type, tuple(inputs), outputs, tuple(constants), attributes, _name(operation)
        )

    def _operands(self, operation: Operation) -> Iterator[_Operand]:
        """What ``operation`` reads, in the order in which coremltools declares it."""
        order = _declared_order(operation.type)
        known = {**operation.attributes, **operation.inputs}
        for parameter in sorted(known, key=lambda key: (order.get(key, len(order)), key)):
            if parameter in operation.inputs:
                for item in operation.inputs[parameter].arguments:
                    yield self._operand(parameter, item)
            elif parameter not in ("name", "val"):
                yield _literal(parameter, operation.attributes[parameter], None)

    def _operand(self, parameter: str, item: proto.MIL_pb2.Argument.Binding) -> _Operand:
        if not item.HasField("name"):
            return _literal(parameter, item.value, None)
        if item.name not in self._types:
            raise undefined(item.name)
        maker = self._makers.get(item.name)  # none for inputs of the function and of blocks
        if maker is not None and maker.type == "const":
            return _literal(parameter, _constant(maker), maker)
        const = maker is not None and _is_constant(maker)
        tensor = _tensor(self._types[item.name], parameter, const)
        return _Operand(parameter, tensor, None, maker, "" if const else item.name)

    def _stored_bytes(self, item: _Operand) -> float:
        """Bytes of a constant in the package: packed, where its weights are compressed."""
        if item.made_by is None or item.made_by.type == "const":
            return item.tensor.bytes
        return sum(self._stored_bytes(part) for part in self._operands(item.made_by))

    def _compression(self, op_type: str, item: _Operand) -> dict[str, Any]:
        """What the prices ask of a compressed weight; empty for others."""
        if item.made_by is None or not item.made_by.type.startswith(_UNPACKED):
            return {}
        parts = {part.parameter: part.tensor.shape for part in self._operands(item.made_by)}
        found: dict[str, Any] = {}
        scale = parts.get("scale", ())
        axis = _SUMMED_AXIS.get(op_type)
        is_blockwise = item.made_by.type == "constexpr_blockwise_shift_scale"
        if is_blockwise and axis is not None and len(scale) > 1 and scale[axis] > 1:
            found["blockwise_weight"] = True
        if item.made_by.type == "constexpr_lut_to_dense":
            loads = _palette_loads(item.tensor, parts.get("lut", ()))
            found |= {"palette_loads": loads} if loads else {}
        palettes = list(self._palettes(item))
        if any("int" in palette.dtype for palette in palettes):
            found["integer_palette"] = True
        # (groups of each axis..., palette size, vector size) from iOS 18 on
        grouped = [sum(size > 1 for size in palette.shape[:-2]) for palette in palettes]
        if max(grouped, default=0) > 1:
            found["palette_axes"] = max(grouped)
        return found

    def _palettes(self, item: _Operand) -> Iterator[TensorFacts]:
        """The palettes that a compressed weight is made of, scaled ones included."""
        if item.made_by is None or not item.made_by.type.startswith(_UNPACKED):
            return
        for part in self._operands(item.made_by):
            if part.parameter == "lut":
                yield part.tensor
            yield from self._palettes(part)

    def _plain(self, item: _Operand) -> object:
        """A short constant as plain Python values."""
        assert item.value is not None
        return self._weights.plain(item.value)


@functools.cache
def _declared_order(op_type: str) -> dict[str, int]:
    """Place of each parameter of an operator as coremltools lists them; none for unknown ones.

    A file keeps arguments by name, in no order.
    """
    names = load_data("parameter_order.json")["parameters"].get(op_type, ())
    return {name: place for place, name in enumerate(names)}


def _is_constant(operation: Operation) -> bool:
    return operation.type == "const" or operation.type.startswith(_UNPACKED)


def _constant(operation: Operation) -> proto.MIL_pb2.Value:
    """The value of a ``const``: older programs keep it among the attributes."""
    if "val" in operation.attributes:
        return operation.attributes["val"]
    found = list(operation.inputs["val"].arguments) if "val" in operation.inputs else []
    if len(found) != 1 or found[0].HasField("name"):
        raise damaged("a constant with one value 'val'", "none", f"const {_name(operation)}")
    return found[0].value


def _literal(parameter: str, value: proto.MIL_pb2.Value, made_by: Operation | None) -> _Operand:
    return _Operand(parameter, _tensor(value.type, parameter, True), value, made_by, "")


def _name(operation: Operation) -> str:
    if "name" in operation.attributes:
        strings = operation.attributes["name"].immediateValue.tensor.strings.values
        return str(strings[0]) if strings else ""
    return operation.outputs[0].name if operation.outputs else operation.type


def _tensor(value_type: proto.MIL_pb2.ValueType, name: str, const: bool) -> TensorFacts:
    """Of a list its elements' dtype, of a dictionary nothing; neither has a shape of its own."""
    kind = value_type.WhichOneof("type")
    if kind == "stateType":
        value_type = value_type.stateType.wrappedType
    elif kind == "listType":
        value_type = value_type.listType.type
        if not value_type.tensorType.dataType:  # coremltools leaves it open for whole labels
            return TensorFacts((), "int64", name, const)
    elif kind != "tensorType":
        return TensorFacts((), "string", name, const)
    dtype, shape = tensor_type(value_type)
    sizes = tuple(size if size >= 0 else UNKNOWN_DIM for size in shape)
    return TensorFacts(() if kind == "listType" else sizes, dtype.name, name, const)


def _palette_loads(weight: TensorFacts, palette: tuple[int, ...]) -> float:
    """Weights divided by the output channels that share a palette; 0 for one palette or none."""
    # iOS 18 keeps one palette per group: (groups of each axis..., palette size, vector size).
    groups = palette[0] if len(palette) > 2 else 1
    return weight.elements / (weight.shape[0] / groups) if groups > 1 else 0.0
