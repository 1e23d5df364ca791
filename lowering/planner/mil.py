"""MIL programs as facts: the only file of the planner that knows coremltools' objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import coremltools as ct
from coremltools.converters.mil.frontend.milproto.load import load as load_milproto
from coremltools.converters.mil.mil import Operation, Program, Var, types
from coremltools.models.utils import load_spec
from google.protobuf.message import DecodeError

from frontend.errors import AnePassesError
from lowering.package.source_table import SourceTable
from lowering.planner.facts import UNKNOWN_DIM, OpFacts, TensorFacts
from lowering.support.quiet import quiet_coremltools

# What `plan` accepts.
ModelLike: TypeAlias = "ct.models.MLModel | Program | str | Path"

# Constant operands that are data like the runtime ones; all other constants are parameters.
_DATA_OPERANDS = ("x", "y", "a", "b", "values", "data", "query", "key", "value", "attn_mask")
# Longer constants are weights; their values are never read.
_MAX_ATTRIBUTE_ELEMENTS = 64
# Weights that the compiler unpacks: the axis a block scale must not vary on, by operator.
_SUMMED_AXIS = {"conv": 1, "linear": 1, "matmul": -2}


class ModelError(AnePassesError):
    """There is no ML Program in what was given."""


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
    """

    ops: tuple[ProgramOp, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sources: SourceTable
    label: str
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_program(model: ModelLike | ReadProgram, sources: SourceTable | None = None) -> ReadProgram:
    """The main function of ``model``; a program that was read before is returned as it is.

    Raises:
        ModelError: the file is missing or corrupt, or holds no ML Program.
    """
    if isinstance(model, ReadProgram):
        return model
    program, metadata, label = _open(model)
    names = program.functions
    function = names.get(program.default_function_name) or next(iter(names.values()))
    return ReadProgram(
        tuple(_program_op(op) for op in _walk(function)),
        tuple(function.inputs),
        tuple(output.name for output in function.outputs),
        sources if sources is not None else SourceTable.from_metadata(metadata),
        label,
        metadata,
    )


def _open(model: ModelLike) -> tuple[Program, Mapping[str, str], str]:
    if isinstance(model, Program):
        return model, {}, "the program"
    if isinstance(model, ct.models.MLModel):
        metadata = dict(model.user_defined_metadata)
        if model._mil_program is not None:
            return model._mil_program, metadata, "the model"
        return _from_spec(model._spec, model.weights_dir or "", "the model"), metadata, "the model"
    if not isinstance(model, str | Path):
        raise ModelError(
            "This cannot be planned",
            expected="an MLModel, the path of a .mlpackage, or a MIL program",
            found=type(model).__name__,
        )
    path = Path(model).expanduser()
    if not path.exists():
        raise ModelError(f"There is no model at {path}", hint="check the path")
    try:
        spec = load_spec(str(path))
    except (DecodeError, OSError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"{path.name} is not a Core ML package that can be read",
            expected="a .mlpackage with an ML Program",
            found=str(error).splitlines()[0],
        ) from error
    weights = path / "Data/com.apple.CoreML/weights"
    program = _from_spec(spec, str(weights), path.name)
    return program, dict(spec.description.metadata.userDefined), path.name


def _from_spec(spec: Any, weights: str, label: str) -> Program:
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram":
        raise ModelError(
            f"{label} holds no ML Program",
            expected="an ML Program (iOS 15 or later)",
            found=f"a {kind}",
            hint="convert it again with convert_to='mlprogram'",
        )
    try:
        with quiet_coremltools():
            return load_milproto(spec, spec.specificationVersion, weights)
    except (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        NotImplementedError,
        AssertionError,
    ) as error:
        raise ModelError(
            f"The program of {label} cannot be read",
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            hint="the package may be damaged, its weights missing, or made by a newer coremltools",
        ) from error


def _walk(block: Any) -> Iterator[Operation]:
    """Operators in program order without constants, those of nested blocks after their holder."""
    for op in block.operations:
        if not op.op_type.startswith("const"):
            yield op
        for inner in op.blocks:
            yield from _walk(inner)


def _program_op(op: Operation) -> ProgramOp:
    reads = tuple(var.name for _, var in _operands(op) if not _is_const(var))
    return ProgramOp(facts_of(op), reads, tuple(output.name for output in op.outputs))


def facts_of(op: Operation) -> OpFacts:
    """Facts of a MIL operation."""
    inputs: list[TensorFacts] = []
    constants: list[TensorFacts] = []
    attributes: dict[str, Any] = {}
    for name, var in _operands(op):
        const = _is_const(var)
        tensor = _tensor(var, name, const)
        if const and not tensor.shape and tensor.dtype == "string":
            attributes[name] = str(var.val)
            continue
        is_data = not const or (name in _DATA_OPERANDS and tensor.shape)
        (inputs if is_data else constants).append(tensor)
        if const and tensor.elements <= _MAX_ATTRIBUTE_ELEMENTS and var.val is not None:
            attributes[name] = var.val.tolist() if hasattr(var.val, "tolist") else var.val
        if const and tensor.elements > 1 and tensor.dtype.startswith("fp"):
            attributes["stored_bytes"] = attributes.get("stored_bytes", 0.0) + _stored_bytes(var)
            if _is_blockwise(op.op_type, var):
                attributes["blockwise_weight"] = True
            loads = _palette_loads(var)
            if loads:
                attributes["palette_loads"] = loads
    outputs = tuple(_tensor(output, "", False) for output in op.outputs)
    return OpFacts(op.op_type, tuple(inputs), outputs, tuple(constants), attributes, op.name)


def _operands(op: Operation) -> Iterator[tuple[str, Var]]:
    for name, value in op.inputs.items():
        for var in value if isinstance(value, list | tuple) else (value,):
            if isinstance(var, Var):
                yield name, var


def _is_const(var: Var) -> bool:
    return var.op is not None and var.op.op_type.startswith("const")


def _tensor(var: Var, name: str, const: bool) -> TensorFacts:
    try:
        shape = var.shape
    except AttributeError:  # lists and states: no shape of their own
        shape = ()
    sizes = tuple(
        int(size)
        if isinstance(size, int) or getattr(size, "is_integer", None) is True
        else UNKNOWN_DIM
        for size in shape or ()
    )
    return TensorFacts(sizes, _dtype_name(var), name, const)


def _dtype_name(var: Var) -> str:
    dtype = var.dtype
    state = getattr(var.sym_type, "wrapped_type", None)
    if callable(state) and types.is_state(var.sym_type):
        dtype = state().get_primitive()
    return str(types.builtin_to_string(dtype))


def _stored_bytes(var: Var) -> float:
    """Bytes of a constant in the package: packed, where its weights are compressed."""
    if var.op is None or var.op.op_type == "const":
        return _tensor(var, "", True).bytes
    return sum(_stored_bytes(inner) for _, inner in _operands(var.op))


def _palette_loads(var: Var) -> float:
    """Weights divided by the output channels that share a palette; 0 for one palette or none."""
    if var.op is None or var.op.op_type != "constexpr_lut_to_dense":
        return 0.0
    # iOS 18 keeps one palette per group: (groups of each axis..., palette size, vector size).
    groups = var.op.inputs["lut"].shape[0] if len(var.op.inputs["lut"].shape) > 2 else 1
    shape = _tensor(var, "", True)
    return shape.elements / (shape.shape[0] / groups) if groups > 1 else 0.0


def _is_blockwise(op_type: str, var: Var) -> bool:
    """Its weight is unpacked with a scale that varies along the axis ``op_type`` sums over."""
    axis = _SUMMED_AXIS.get(op_type)
    producer = var.op
    if axis is None or producer is None or producer.op_type != "constexpr_blockwise_shift_scale":
        return False
    scale = producer.inputs["scale"].shape
    return len(scale) > 1 and scale[axis] > 1
