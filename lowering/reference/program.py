"""Turns one function of an ML Program into steps that run: names resolved, constants decoded.

Everything that does not depend on the inputs happens here, once per load: constants and
compressed weights are decoded, arguments are bound, values get a register, and each step knows
which registers are dead after it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from google.protobuf.message import Message

from lowering.package.blocks import walk
from lowering.package.dtypes import DType
from lowering.package.kinds import damaged, operands_fit, undefined
from lowering.package.open import Package
from lowering.package.weights import tensor_type
from lowering.reference import packed_palettes
from lowering.reference.binding import BoundCall, Constant, Reference, Slot, bind
from lowering.reference.constants import Constants
from lowering.reference.errors import UnknownOpsError
from lowering.reference.kept import as_stored, kept_as_stored
from lowering.reference.precision import Precision, needs_rounding, rounded_weight
from lowering.reference.semantics import CONTROL_FLOW, SEMANTICS
from lowering.reference.shortcuts import Run, run_of
from lowering.reference.strict import STRICT_SEMANTICS
from lowering.support.memory import check_fits


@dataclass(frozen=True)
class Value:
    """A value of the program as declared.

    Attributes:
        name: its name in the program.
        dtype: element type; ``None`` for lists, states and dictionaries of unknown elements.
        shape: sizes, -1 where unknown; ``None`` for what is not a tensor.
        kind: ``tensor``, ``state``, ``list`` or ``dictionary``.
    """

    name: str
    dtype: DType | None
    shape: tuple[int, ...] | None
    kind: str = "tensor"


@dataclass(frozen=True)
class Op:
    """One op of the program, in a form made for reading.

    Attributes:
        name: its name in the program.
        type: MIL op type.
        inputs: names of the values it reads, by parameter.
        constants: its constant arguments, as the semantics function gets them.
        outputs: the values it computes.
        block: names of the control-flow ops around it, outermost first.
    """

    name: str
    type: str
    inputs: Mapping[str, tuple[str, ...]]
    constants: Mapping[str, Any]
    outputs: tuple[Value, ...]
    block: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One op, ready to run.

    Attributes:
        op: what is run.
        call: semantics with constants bound; for control flow, its dynamic arguments.
        targets: registers of the outputs.
        rounding: per output, the declared type and whether to round to it; ``None``: leave as is.
        blocks: nested blocks of control flow.
        free: registers that no later step reads.
        is_half: its one result is carried as float16 numbers, see :mod:`.half_lane`.
        is_copied: the caller gets the result, which may be memory that others read.
        overwrites: nobody reads the memory of its ``x`` after it.
    """

    op: Op
    call: BoundCall
    targets: tuple[int, ...]
    rounding: tuple[tuple[DType, bool] | None, ...]
    blocks: tuple[Block, ...] = ()
    free: tuple[int, ...] = ()
    is_half: bool = False
    is_copied: bool = False
    overwrites: bool = False

    @cached_property
    def unwatched(self) -> Run | None:
        """See :func:`lowering.reference.shortcuts.run_of`."""
        return run_of(self)

    def reads(self) -> set[int]:
        """Registers that it reads, those that its blocks read included."""
        found = self.call.slots()
        for block in self.blocks:
            found |= {item.index for item in block.outputs if isinstance(item, Slot)}
            for inner in block.steps:
                found |= inner.reads()
        return found


@dataclass(frozen=True)
class Block:
    """Steps in order, the registers of the block's own inputs, and its outputs."""

    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: tuple[Reference, ...]


@dataclass(frozen=True)
class Function:
    """A compiled function.

    Attributes:
        inputs: declared inputs and states, in order; input ``i`` lives in register ``i``.
        outputs: declared outputs, in order.
        body: what to run.
        registers: size of the register file.
        opset: such as ``CoreML7``.
        half_inputs: registers of inputs that are carried as float16 numbers where nobody watches.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    body: Block
    registers: int
    opset: str
    half_inputs: frozenset[int] = frozenset()

    def steps(self) -> Iterator[Step]:
        """Every step in the order of the program, those of nested blocks after the one around."""
        yield from _steps(self.body)

    def ops(self) -> Iterator[Op]:
        """Every op in the order of the program, those of nested blocks after the op they are in."""
        yield from (step.op for step in self.steps())


def compile_function(package: Package, name: str, precision: Precision) -> Function:
    """The function ``name`` of ``package``, ready to run.

    Raises:
        PackageError: there is no such function, or the program is malformed.
        UnknownOpsError: it holds ops without semantics.
    """
    spec, body = package.function(name)
    _check_supported(body)
    return _Compiler(package, precision).function(spec, body)


def declared(named_type: Message) -> Value:
    """A ``NamedValueType`` as a :class:`Value`."""
    kind = named_type.type.WhichOneof("type")
    if kind == "tensorType":
        return Value(named_type.name, *tensor_type(named_type.type))
    if kind == "stateType":
        wrapped = tensor_type(named_type.type.stateType.wrappedType)
        return Value(named_type.name, *wrapped, "state")
    if kind == "listType":
        element = named_type.type.listType.type
        is_tensor = element.WhichOneof("type") == "tensorType"
        return Value(named_type.name, tensor_type(element)[0] if is_tensor else None, None, "list")
    return Value(named_type.name, None, None, "dictionary")


def _steps(block: Block) -> Iterator[Step]:
    for step in block.steps:
        yield step
        for inner in step.blocks:
            yield from _steps(inner)


def _check_supported(block: Message) -> None:
    known = {"const", *CONTROL_FLOW, *SEMANTICS}
    unknown = Counter(op.type for op in walk(block) if op.type not in known)
    if unknown:
        raise UnknownOpsError(
            "the program holds ops that the interpreter does not know",
            found=", ".join(f"{kind} (x{count})" for kind, count in sorted(unknown.items())),
            hint="convert without these ops, or run the package on macOS",
        )


@dataclass
class _Scope:
    """Names visible in a block; registers defined in it."""

    outer: _Scope | None
    names: dict[str, tuple[Reference, Value]] = field(default_factory=dict)
    defined: set[int] = field(default_factory=set)

    def find(self, name: str) -> Reference:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name][0]
            scope = scope.outer
        raise undefined(name)


def _output(scope: _Scope, name: str) -> Value:
    """What the function returns as ``name``, which an operator, a constant or an input makes."""
    scope.find(name)
    return scope.names[name][1]


class _Compiler:
    def __init__(self, package: Package, precision: Precision) -> None:
        self._weights = package.weights
        self._known = Constants(package.weights)
        self._precision = precision
        self._registers = 0
        self._kept: set[str] = set()

    def function(self, spec: Message, body: Message) -> Function:
        self._kept = kept_as_stored(body)
        scope = _Scope(None)
        inputs = tuple(declared(item) for item in spec.inputs)
        for item in inputs:
            self._define(scope, item)
        block = self._block(body, scope, ())
        outputs = tuple(_output(scope, name) for name in body.outputs)
        return Function(inputs, outputs, block, self._registers, spec.opset)

    def _define(self, scope: _Scope, value: Value) -> int:
        if value.shape is not None and value.dtype is not None:
            check_fits(value.shape, 8 * value.dtype.carrier.itemsize, f"value {value.name!r}")
        index = self._registers
        self._registers += 1
        scope.names[value.name] = (Slot(index), value)
        scope.defined.add(index)
        return index

    def _block(self, spec: Message, scope: _Scope, path: tuple[str, ...]) -> Block:
        inputs = tuple(self._define(scope, declared(item)) for item in spec.inputs)
        steps = []
        for operation in spec.operations:
            if operation.type == "const":
                self._constant(operation, scope)
            elif operation.type.startswith("constexpr_"):
                self._constexpr(operation, scope)
            else:
                steps.append(self._step(operation, scope, path))
        outputs = tuple(scope.find(name) for name in spec.outputs)
        return Block(_with_lifetimes(steps, scope.defined, outputs), inputs, outputs)

    def _constant(self, operation: Message, scope: _Scope) -> None:
        output = operation.outputs[0]
        # Older programs keep the value among the attributes, newer ones among the inputs.
        if "val" in operation.attributes:
            spec = operation.attributes["val"]
        else:
            spec = operation.inputs["val"].arguments[0].value
        kept = self._known.as_stored(spec) if output.name in self._kept else None
        value = self._known.carried(spec) if kept is None else kept
        scope.names[output.name] = (Constant(value), declared(output))

    def _constexpr(self, operation: Message, scope: _Scope) -> None:
        direct = packed_palettes.decoded(operation, self._weights)
        if direct is not None:
            self._define_weight(operation, scope, (direct,))
            return
        known, self._known = self._known, Constants(self._weights)  # what is decoded can go
        call = self._bind(operation, scope)
        self._known = known
        if call.dynamic:
            raise damaged(
                "a compressed weight whose parts are constants",
                f"it reads {', '.join(item.name for item in call.dynamic)}",
                _describe(operation),
            )
        with operands_fit(_describe(operation)):
            results = call.function(**call.constants)
        results = results if isinstance(results, tuple) else (results,)
        if len(results) != len(operation.outputs):
            raise damaged(
                f"{len(results)} results", str(len(operation.outputs)), _describe(operation)
            )
        self._define_weight(operation, scope, results)

    def _define_weight(
        self, operation: Message, scope: _Scope, results: tuple[object, ...]
    ) -> None:
        for output, result in zip(operation.outputs, results, strict=True):
            value = declared(output)
            if value.dtype is not None:
                result = rounded_weight(result, operation.type, value.dtype, self._precision)
            if output.name in self._kept and self._precision is not Precision.FP32:
                result = as_stored(result, value.dtype)
            scope.names[output.name] = (Constant(result), value)

    def _step(self, operation: Message, scope: _Scope, path: tuple[str, ...]) -> Step:
        name = _op_name(operation)
        blocks = tuple(
            self._block(inner, _Scope(scope), (*path, name)) for inner in operation.blocks
        )
        call = self._bind(operation, scope)
        outputs = tuple(declared(item) for item in operation.outputs)
        op = Op(
            name=name,
            type=operation.type,
            inputs={
                key: tuple(item.name for item in argument.arguments if item.HasField("name"))
                for key, argument in operation.inputs.items()
                if any(item.HasField("name") for item in argument.arguments)
            },
            constants=call.constants,
            outputs=outputs,
            block=path,
        )
        return Step(
            op=op,
            call=call,
            targets=tuple(self._define(scope, item) for item in outputs),
            rounding=tuple(self._rounding(operation.type, item) for item in outputs),
            blocks=blocks,
        )

    def _rounding(self, op_type: str, value: Value) -> tuple[DType, bool] | None:
        if value.kind != "tensor" or value.dtype is None or op_type in CONTROL_FLOW:
            return None
        return value.dtype, needs_rounding(op_type, value.dtype, self._precision)

    def _bind(self, operation: Message, scope: _Scope) -> BoundCall:
        arguments: dict[str, list[Reference]] = {
            key: [Constant(value)] for key, value in self._known.attributes(operation).items()
        }
        for key, argument in operation.inputs.items():
            arguments[key] = [
                scope.find(item.name)
                if item.HasField("name")
                else Constant(self._known.carried(item.value))
                for item in argument.arguments
            ]
        function = CONTROL_FLOW.get(operation.type) or SEMANTICS[operation.type]
        if self._precision is Precision.STRICT and self._is_fp16(operation, scope):
            function = STRICT_SEMANTICS.get(operation.type, function)
        return bind(function, arguments, operation.type, _op_name(operation))

    def _is_fp16(self, operation: Message, scope: _Scope) -> bool:
        kinds = {declared(item).dtype for item in operation.outputs}
        return any(dtype is not None and dtype.name == "fp16" for dtype in kinds)


def _with_lifetimes(
    steps: list[Step], own: set[int], outputs: tuple[Reference, ...]
) -> tuple[Step, ...]:
    """``steps`` with the registers of this block that die after each of them."""
    alive = {item.index for item in outputs if isinstance(item, Slot)}
    result = []
    for step in reversed(steps):
        touched = (step.reads() | set(step.targets)) & own
        free = touched - alive
        alive |= touched
        result.append(replace(step, free=tuple(sorted(free))))
    return tuple(reversed(result))


def _op_name(operation: Message) -> str:
    if "name" in operation.attributes:
        strings = operation.attributes["name"].immediateValue.tensor.strings.values
        if strings:
            return str(strings[0])
    return str(operation.outputs[0].name) if operation.outputs else str(operation.type)


def _describe(operation: Message) -> str:
    return f"{operation.type} {_op_name(operation)}"
