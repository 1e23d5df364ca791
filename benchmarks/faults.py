"""Single faults in a package: what can be planted in one of its ops, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import coremltools as ct
import numpy as np

from lowering.package.proto import MIL_pb2
from lowering.package.weights import Weights, tensor_type

# Wrong by a factor that people do get wrong: 1e-5 for 1e-12, 1e-3 for 1e-6 ...
_EPSILON_FACTORS = (1e2, 1e3, 1e4)
_FP16_LARGEST = 6e4
# One number in a row of weights, or all of it, off by these shares of the weights' size.
_WEIGHT_SHARES = (0.02, 0.1, 0.5, 2.0)
# Ops that read one value and give one of the same shape: swapped for each other.
_UNARY = ("relu", "sigmoid", "silu", "tanh", "gelu", "abs", "square", "softsign")
_BINARY = ("add", "sub", "mul", "maximum")
_REDUCTIONS = ("reduce_mean", "reduce_sum", "reduce_max", "reduce_min")
_WEIGHTS = {
    "conv": ("weight", "bias"),
    "linear": ("weight", "bias"),
    "layer_norm": ("gamma", "beta"),
    "gather": ("x",),
    "mul": ("x", "y"),
    "add": ("x", "y"),
}


@dataclass(frozen=True)
class Fault:
    """One fault that can be planted.

    Attributes:
        kind: such as ``axis`` or ``weight``.
        op: name of the op it is planted in.
        description: what is changed into what.
        plant: changes the program.
    """

    kind: str
    op: str
    description: str
    plant: Callable[[], None]


class Patient:
    """A copy of a model to plant one fault in.

    Args:
        model: the sound model; it stays as it is.
    """

    def __init__(self, model: ct.models.MLModel) -> None:
        self.spec = type(model._spec)()
        self.spec.CopyFrom(model._spec)
        self._directory = model.weights_dir
        self._weights = Weights(Path(model.weights_dir))
        function = self.spec.mlProgram.functions["main"]
        self._block = function.block_specializations[function.opset]
        self._types = {item.name: item.type for item in function.inputs}
        for operation in self._block.operations:
            self._types.update({output.name: output.type for output in operation.outputs})
        self._constants = {
            operation.outputs[0].name: operation.attributes["val"]
            for operation in self._block.operations
            if operation.type == "const"
        }

    def model(self) -> ct.models.MLModel:
        """The model with what was planted."""
        return ct.models.MLModel(self.spec, weights_dir=self._directory, skip_model_load=True)

    def faults(self, rng: np.random.Generator) -> dict[str, list[Fault]]:
        """Every fault that can be planted, by kind; ``rng`` chooses sizes and places."""
        found: dict[str, list[Fault]] = {}
        earlier: list[tuple[str, bytes]] = []
        for operation in self._block.operations:
            if operation.type == "const" or operation.type.startswith("constexpr_"):
                continue
            for kind, description, plant in self._of(operation, rng, earlier):
                name = str(operation.attributes["name"].immediateValue.tensor.strings.values[0])
                found.setdefault(kind, []).append(Fault(kind, name, description, plant))
            earlier += [(o.name, o.type.SerializeToString()) for o in operation.outputs]
        return found

    def _of(
        self, op: MIL_pb2.Operation, rng: np.random.Generator, earlier: list[tuple[str, bytes]]
    ) -> Iterator[tuple[str, str, Callable[[], None]]]:
        yield from self._constants_of(op, rng)
        yield from self._weights_of(op, rng)
        yield from _wiring_of(op, rng, earlier, self._types)
        yield from _type_of(op, rng)

    def _constants_of(
        self, op: MIL_pb2.Operation, rng: np.random.Generator
    ) -> Iterator[tuple[str, str, Callable[[], None]]]:
        """Parameters that are small constants: epsilon, axes, permutations, bounds, pads."""
        rank = _rank(op, self._types)
        for key in op.inputs:
            value = self._constant(op, key)
            if value is None:
                continue
            if key == "epsilon" and value.size == 1:
                yield self._change("epsilon", op, key, value, _larger_epsilon(value, rng))
            elif key in ("axis", "axes") and rank > 1:
                yield self._change("axis", op, key, value, _other_axis(value, rank, rng))
            elif key == "perm" and value.size > 1:
                yield self._change("permutation", op, key, value, _swapped(value, rng))
            elif key in ("begin", "end") and op.type == "slice_by_index":
                place = int(rng.integers(value.size))
                moved = value.copy()
                moved.flat[place] += 1 if key == "begin" else -1
                yield self._change("slice", op, key, value, moved)
            elif key == "pad" and value.any():
                moved = value.copy()
                place = 2 * int(rng.integers(value.size // 2))
                if moved[place] or moved[place + 1]:
                    moved[place], moved[place + 1] = moved[place] + 1, moved[place + 1] - 1
                    if moved.min() >= 0:
                        yield self._change("pad", op, key, value, moved)
            elif key in ("transpose_x", "transpose_y"):
                yield self._change("transpose", op, key, value, ~value)
            elif key == "alpha" and value.size == 1:
                yield self._change("slope", op, key, value, value * value.dtype.type(3))

    def _weights_of(
        self, op: MIL_pb2.Operation, rng: np.random.Generator
    ) -> Iterator[tuple[str, str, Callable[[], None]]]:
        for key in _WEIGHTS.get(op.type, ()):
            value = self._constant(op, key)
            if value is None or value.dtype.kind != "f" or not np.isfinite(value).all():
                continue
            if op.type == "mul":
                yield self._change("scale", op, key, value, np.ones_like(value))
            if key == "bias" or op.type == "add":
                yield self._change("bias", op, key, value, np.zeros_like(value))
            if value.size > 1:
                yield self._change("weight", op, key, value, _perturbed(value, rng))

    def _constant(self, op: MIL_pb2.Operation, key: str) -> np.ndarray | None:
        if key not in op.inputs:  # reading a missing key of a protobuf map would add it
            return None
        arguments = op.inputs[key].arguments
        if len(arguments) != 1 or arguments[0].name not in self._constants:
            return None
        value = self._constants[arguments[0].name]
        if value.type.WhichOneof("type") != "tensorType" or _is_text(value):
            return None
        return self._weights.stored(value)

    def _change(
        self, kind: str, op: MIL_pb2.Operation, key: str, old: np.ndarray, new: np.ndarray
    ) -> tuple[str, str, Callable[[], None]]:
        """The fault that gives this op, and no other, ``new`` for its argument ``key``."""
        if old.size <= 8:
            description = f"{key} {old.tolist()} -> {new.tolist()}"
        else:
            places = int((old != new).sum())
            description = f"{places} of {old.size} elements of {key}"
        constant = self._constants[op.inputs[key].arguments[0].name]

        def plant() -> None:
            argument = op.inputs[key].arguments[0]
            argument.Clear()
            argument.value.type.CopyFrom(constant.type)
            _write(argument.value, new)

        return kind, description, plant


def _wiring_of(
    op: MIL_pb2.Operation,
    rng: np.random.Generator,
    earlier: list[tuple[str, bytes]],
    types: Mapping[str, MIL_pb2.ValueType],
) -> Iterator[tuple[str, str, Callable[[], None]]]:
    """Operands in the wrong order, and the wrong value of the right shape."""
    pairs = {"sub": ("x", "y"), "real_div": ("x", "y"), "select": ("a", "b"), "matmul": ("x", "y")}
    if op.type in pairs:
        first, second = pairs[op.type]
        yield "operands", f"{first} and {second} swapped", lambda: _swap(op, first, second)
    if op.type in ("concat", "einsum") and len(op.inputs["values"].arguments) > 1:
        yield "operands", "first and last of values swapped", lambda: _swap_values(op)
    read = [k for k in op.inputs for a in op.inputs[k].arguments if a.name in dict(earlier)]
    if read:
        key = str(rng.choice(read))
        argument = op.inputs[key].arguments[0]
        if argument.name in types:
            kind = types[argument.name].SerializeToString()
            others = [name for name, other in earlier if other == kind and name != argument.name]
            if others:
                other = str(rng.choice(others[-8:]))  # what is mistaken for it is near it

                def plant() -> None:
                    argument.name = other

                yield "wrong value", f"{key} {argument.name} -> {other}", plant


def _type_of(
    op: MIL_pb2.Operation, rng: np.random.Generator
) -> Iterator[tuple[str, str, Callable[[], None]]]:
    """Another op of the same form."""
    for group in (_UNARY, _BINARY, _REDUCTIONS):
        if op.type in group:
            other = str(rng.choice([name for name in group if name != op.type and name != "gelu"]))

            def plant(name: str = other) -> None:
                op.type = name
                if "mode" in op.inputs:
                    del op.inputs["mode"]

            yield "op type", f"{op.type} -> {other}", plant


def _is_text(value: MIL_pb2.Value) -> bool:
    return value.immediateValue.tensor.WhichOneof("value") == "strings"


def _rank(op: MIL_pb2.Operation, types: Mapping[str, MIL_pb2.ValueType]) -> int:
    for key in ("x", "values"):
        if key in op.inputs and op.inputs[key].arguments[0].name in types:
            return len(tensor_type(types[op.inputs[key].arguments[0].name])[1])
    return 0


def _larger_epsilon(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    larger = max(float(value.reshape(-1)[0]), 1e-7) * float(rng.choice(_EPSILON_FACTORS))
    return np.full_like(value, min(larger, _FP16_LARGEST))


def _other_axis(value: np.ndarray, rank: int, rng: np.random.Generator) -> np.ndarray:
    moved = value.copy()
    old = int(value.reshape(-1)[0])
    taken = {int(axis) % rank for axis in value.reshape(-1)}
    free = [axis for axis in range(rank) if axis not in taken] or [(old + 1) % rank]
    moved.reshape(-1)[0] = int(rng.choice(free))
    return moved


def _swapped(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    first, second = rng.choice(value.size, 2, replace=False)
    moved = value.copy()
    moved[[first, second]] = moved[[second, first]]
    return moved


def _perturbed(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = float(rng.choice(_WEIGHT_SHARES)) * float(value.astype(np.float64).std() or 1.0)
    moved = value.astype(np.float64)
    rows = moved.reshape(moved.shape[0], -1)
    row = int(rng.integers(len(rows)))
    if rng.integers(2):
        rows[row] += size * rng.standard_normal(rows.shape[1])
    else:
        rows[row, int(rng.integers(rows.shape[1]))] += size
    return moved.astype(value.dtype)


def _swap(op: MIL_pb2.Operation, first: str, second: str) -> None:
    kept = type(op.inputs[first])()
    kept.CopyFrom(op.inputs[first])
    op.inputs[first].CopyFrom(op.inputs[second])
    op.inputs[second].CopyFrom(kept)


def _swap_values(op: MIL_pb2.Operation) -> None:
    arguments = op.inputs["values"].arguments
    arguments[0].name, arguments[-1].name = arguments[-1].name, arguments[0].name


def _write(value: MIL_pb2.Value, array: np.ndarray) -> None:
    tensor = value.immediateValue.tensor
    flat = array.reshape(-1)
    if array.dtype == np.float32:
        tensor.floats.values.extend(flat.tolist())
    elif array.dtype == np.bool_:
        tensor.bools.values.extend(flat.tolist())
    elif array.dtype == np.int32:
        tensor.ints.values.extend(flat.tolist())
    else:
        tensor.bytes.values = flat.tobytes()
