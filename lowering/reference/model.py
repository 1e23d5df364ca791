"""A program that has been loaded and can be called."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from frontend.errors import InputError, about, first_line
from lowering.package.dtypes import FP16
from lowering.package.kinds import VALUE_ERRORS
from lowering.package.metadata_entry import of_function
from lowering.package.open import ModelLike, open_package
from lowering.reference.errors import ExecutionError
from lowering.reference.float_activations import has_integer_activations
from lowering.reference.io import (
    default_array,
    features,
    missing_and_unknown,
    to_output,
    to_value,
)
from lowering.reference.precision import Precision, rounded_to
from lowering.reference.program import Block, Function, Op, Step, Value, compile_function
from lowering.reference.shortcuts import shortened
from lowering.reference.states import State, StateCell
from lowering.reference.stored_weights import is_compressed

# Sees each op right after it ran: the op, its results, and these as computed, before rounding.
Observer: TypeAlias = Callable[[Op, tuple[Any, ...], tuple[Any, ...]], None]

# No loop that is meant to end makes so many turns in a model of any use (*assumed*); a turn of a
# few operators takes some 50 microseconds here.
MAX_TURNS = 100_000


class LoadedModel:
    """One function of an ML Program, decoded once and ready to be called many times.

    Args:
        model: an MLModel, the path of a ``.mlpackage``, or a MIL program.
        function: the function to run.
        precision: see :class:`Precision`.
        max_turns: of a loop; one that makes more is taken for one without an end.

    Attributes:
        inputs: what the caller gives, by name.
        outputs: what the caller gets, by name.
        ops: the ops in program order.
        metadata: user-defined metadata of the package, as it holds for the function.
        is_compressed: whether it holds weights in fewer bits.
        has_integers: whether its activations become integers while it runs.

    Raises:
        PackageError: the model cannot be read.
        UnknownOpsError: it holds ops that the interpreter does not know.
    """

    def __init__(
        self,
        model: ModelLike,
        function: str = "main",
        precision: str | Precision = "fp16",
        max_turns: int = MAX_TURNS,
    ) -> None:
        self.precision = Precision.of(precision)
        self.max_turns = max_turns
        package = open_package(model)
        self.label = package.label
        if package.description is not None and package.description.defaultFunctionName:
            known = package.program.functions
            if function not in known and function == "main":
                function = package.description.defaultFunctionName
        self.function = function
        _, block = package.function(function)
        self.is_compressed = is_compressed(block)
        self.has_integers = has_integer_activations(block)
        self.metadata = of_function(package.metadata, function)
        with about(self.label):
            compiled = compile_function(package, function, self.precision)
            self.inputs, self.outputs = features(package.description, function, compiled)
            halves = [self._is_half(item) for item in compiled.outputs]
            rounds = self.precision is not Precision.FP32
            self._compiled = shortened(compiled, halves, rounds)
        self.ops: tuple[Op, ...] = tuple(self._compiled.ops())

    def _is_half(self, output: Value) -> bool:
        """Whether the caller gets an output, computed in float16, as float16 numbers."""
        feature = self.outputs.get(output.name)
        return (
            feature is not None
            and feature.image is None
            and output.dtype is FP16
            and feature.dtype is FP16
        )

    @property
    def program(self) -> Function:
        """The compiled function: declared inputs and outputs, steps, registers."""
        return self._compiled

    def computing(self, function: Function) -> LoadedModel:
        """The same model with another body: ``function`` has its inputs, outputs and registers."""
        other = copy.copy(self)
        other._compiled = function
        return other

    def make_state(self) -> State:
        """A fresh state, all zeros; empty for a model without state."""
        cells = {}
        for item in self._compiled.inputs:
            if item.kind == "state":
                assert item.shape is not None
                assert item.dtype is not None
                cells[item.name] = StateCell(item.name, item.shape, item.dtype)
        return State(cells)

    def __call__(self, inputs: Mapping[str, Any], state: State | None = None) -> dict[str, Any]:
        """Outputs by name for ``inputs`` by name; see :func:`lowering.reference.predict`."""
        return self.run(inputs, state)

    def run(
        self,
        inputs: Mapping[str, Any],
        state: State | None = None,
        observer: Observer | None = None,
    ) -> dict[str, Any]:
        """As a call; ``observer`` sees every op and its results as they are computed."""
        with about(self.label, _RUN_HINT):
            halves = self._compiled.half_inputs if observer is None else frozenset()
            registers = self._arguments(inputs, state, halves)
            with torch.inference_mode():
                results = self._execute(self._compiled.body, registers, observer)
            return {
                item.name: self._output(item.name, result)
                for item, result in zip(self._compiled.outputs, results, strict=True)
                if item.name in self.outputs
            }

    def _output(self, name: str, result: object) -> object:
        try:
            return to_output(self.outputs[name], result, self.precision is Precision.FP32)
        except VALUE_ERRORS as error:
            raise ExecutionError(
                f"output {name!r} is not what the model's description says",
                found=first_line(error),
            ) from error

    def values(
        self, inputs: Mapping[str, Any], at: Iterable[str], state: State | None = None
    ) -> dict[str, Any]:
        """The values named ``at``, computed on ``inputs``; numpy arrays where they are tensors.

        A value inside a loop is the one of its last turn.

        Raises:
            InputError: the program computes no value of a given name.
        """
        wanted = set(at)
        known = {output.name for op in self.ops for output in op.outputs}
        if wanted - known:
            raise InputError(
                "the program computes no such value",
                found=", ".join(sorted(wanted - known)),
                hint="names are those of the outputs of LoadedModel.ops",
            )
        seen: dict[str, Any] = {}

        def observe(op: Op, results: tuple[Any, ...], computed: tuple[Any, ...]) -> None:
            for output, result in zip(op.outputs, results, strict=True):
                if output.name in wanted:
                    is_tensor = isinstance(result, torch.Tensor)
                    seen[output.name] = result.clone().numpy() if is_tensor else result

        self.run(inputs, state, observe)
        return seen

    def _arguments(
        self, inputs: Mapping[str, Any], state: State | None, halves: frozenset[int]
    ) -> list[Any]:
        """Registers with what is given in them, as float16 numbers in ``halves``."""
        registers: list[Any] = [None] * self._compiled.registers
        cells = {item.name for item in self._compiled.inputs if item.kind == "state"}
        missing_and_unknown(inputs, self.inputs, sorted(cells))
        if cells and state is None:
            raise InputError(
                "the model has state, and none was given",
                expected=f"state with {', '.join(sorted(cells))}",
                hint="pass state=make_state(model), the same object to successive calls",
            )
        rounds = self.precision is not Precision.FP32
        for index, item in enumerate(self._compiled.inputs):
            if item.kind == "state":
                assert state is not None
                if item.name not in state.cells:
                    raise InputError("the state is that of another model", expected=item.name)
                registers[index] = state.cells[item.name]
                continue
            feature = self.inputs[item.name]
            given = inputs.get(item.name)
            if given is None:
                given = default_array(feature, item)
            registers[index] = to_value(feature, item, given, rounds, index in halves)
        return registers

    def _execute(self, block: Block, registers: list[Any], observer: Observer | None) -> list[Any]:
        step: Step | None = None
        try:
            for step in block.steps:
                if step.blocks:
                    computed = results = self._control(step, registers, observer)
                elif observer is None and step.unwatched is not None:
                    registers[step.targets[0]] = step.unwatched(registers)
                    for index in step.free:
                        registers[index] = None
                    continue
                else:
                    computed = self._computed(step, registers)
                    results = tuple(
                        value if how is None else rounded_to(value, *how)
                        for value, how in zip(computed, step.rounding, strict=True)
                    )
                for target, result in zip(step.targets, results, strict=True):
                    registers[target] = result
                if observer is not None:
                    observer(step.op, results, computed)
                for index in step.free:
                    registers[index] = None
        except VALUE_ERRORS as error:
            assert step is not None
            raise _failure(step, registers, error) from error
        return [reference.read(registers) for reference in block.outputs]

    def _computed(self, step: Step, registers: Sequence[Any]) -> tuple[Any, ...]:
        """The results of ``step`` before they are rounded."""
        computed = step.call.function(**_arguments(step, registers))
        return computed if isinstance(computed, tuple) else (computed,)

    def _control(
        self, step: Step, registers: list[Any], observer: Observer | None
    ) -> tuple[Any, ...]:
        arguments = _arguments(step, registers)
        if step.op.type == "cond":
            chosen = step.blocks[0] if arguments["pred"] else step.blocks[1]
            return tuple(self._execute(chosen, registers, observer))
        condition, body = step.blocks
        current = list(arguments["loop_vars"])
        for _ in range(self.max_turns + 1):
            for target, value in zip(condition.inputs, current, strict=True):
                registers[target] = value
            (go_on,) = self._execute(condition, registers, observer)
            if not bool(go_on):
                return tuple(current)
            for target, value in zip(body.inputs, current, strict=True):
                registers[target] = value
            current = self._execute(body, registers, observer)
        raise ExecutionError(
            f"loop {step.op.name!r} does not end",
            op=f"while_loop {step.op.name}",
            expected=f"at most {self.max_turns:,} turns",
            hint="if it ends later, say so: --max-turns, or load(..., max_turns=)",
        )


def _arguments(step: Step, registers: Sequence[Any]) -> dict[str, Any]:
    arguments = dict(step.call.constants)
    for name, index in step.call.direct:
        arguments[name] = registers[index]
    for item in step.call.indirect:
        arguments[item.name] = item.read(registers)
    return arguments


def _failure(step: Step, registers: list[Any], error: Exception) -> ExecutionError:
    shapes = []
    for item in step.call.dynamic:
        for reference in item.references:
            value = reference.read(registers)
            if isinstance(value, torch.Tensor):
                shapes.append(f"{item.name} {tuple(value.shape)}")
    return ExecutionError(
        f"op {step.op.name!r} could not be executed: {first_line(error)}",
        op=f"{step.op.type} {step.op.name}",
        found=", ".join(shapes) or None,
        hint=_RUN_HINT,
    )


_RUN_HINT = (
    "give inputs that the model takes; if they are, the package is damaged: copy it again, or save "
    "the model again"
)
