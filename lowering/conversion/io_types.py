"""Input, output and state types of the package, from the program's signature."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil.mil import types
from torch.export import ExportedProgram

from lowering.conversion.image_scale import with_channel_scale
from lowering.conversion.input_shapes import InputShapes, Sizes
from lowering.conversion.prepare import Prepared
from lowering.errors import ComplexError, LoweringError

# From the name of an input or output to its type, where it holds floats.
FloatType: TypeAlias = Callable[[str], type]


def input_types(
    prepared: Prepared,
    overrides: Sequence[Any] | None,
    float_type: FloatType,
    sizes: Sizes | None = None,
) -> list[ct.TensorType | ct.ImageType]:
    """One type for each input, in call order.

    Float inputs take their ``float_type``, or float32 where ``prepared.exact`` says so. Integers of
    any width are int32. Booleans are int32 as well, read as "not zero": a package takes no
    booleans, and an attention mask is an integer everywhere else. A scalar becomes a tensor of
    shape ``(1,)``.

    Args:
        prepared: the program.
        overrides: the user's ``inputs=``: types matched by name, or by position when unnamed.
        float_type: gives ``types.fp16`` or ``types.fp32``, by name.
        sizes: the legal values of every dynamic size; ``None`` for ranges.

    Raises:
        LoweringError: an override fits no input, an input is complex, or a dimension has no
            finite upper bound.
    """
    chosen = _matched(prepared.inputs, overrides, what="input")
    values = {
        node.name: node.meta["val"]
        for node in prepared.program.graph.find_nodes(op="placeholder")
        if node.name in prepared.inputs
    }
    shapes = InputShapes(prepared.program, sizes)
    found = []
    for name in prepared.inputs:
        override = chosen.get(name)
        if override is not None and override.shape is not None:
            shape: Any = None
        else:
            shape = shapes.of(name, values[name])
        default = ct.TensorType(
            name=name,
            shape=shape,
            dtype=_package_type(
                name, values[name].dtype, types.fp32 if name in prepared.exact else float_type(name)
            ),
        )
        found.append(default if override is None else _completed(override, default))
        if isinstance(found[-1], ct.ImageType):
            with_channel_scale(found[-1], values[name].shape)
    return found


def output_types(
    prepared: Prepared, overrides: Sequence[Any] | None, float_type: FloatType
) -> list[ct.TensorType | ct.ImageType]:
    """One type for each output, in result order; dtypes as for the inputs."""
    chosen = _matched(prepared.outputs, overrides, what="output")
    nodes = {node.name: node for node in prepared.program.graph.nodes}
    found = []
    for name, node_name in zip(prepared.outputs, prepared.output_nodes, strict=True):
        dtype = _package_type(name, nodes[node_name].meta["val"].dtype, float_type(name))
        default = ct.TensorType(name=name, dtype=dtype)
        override = chosen.get(name)
        found.append(default if override is None else _completed(override, default))
    return found


def check_states(
    program: ExportedProgram, target: ct.target, states: Sequence[ct.StateType]
) -> None:
    """Refuse mutated buffers that the package could not hold.

    Raises:
        LoweringError: a buffer is written below iOS18, or a type is for none that is.
    """
    mutated = sorted(set(program.graph_signature.buffers_to_mutate.values()))
    if not mutated:
        return
    if target < ct.target.iOS18:
        raise LoweringError(
            f"the model writes {_listed(mutated)}, which Core ML keeps as states from iOS18 on",
            expected="minimum_deployment_target=ct.target.iOS18 or later",
            found=target.name,
            hint="raise the target, or pass the values in and return the new ones as outputs",
        )
    unknown = sorted({state.name for state in states} - set(mutated))
    if unknown:
        raise LoweringError(
            f"states= names {_listed(unknown)}, which the model does not write",
            expected=", ".join(mutated),
            found=", ".join(unknown),
        )


def state_types(prepared: Prepared, states: Sequence[ct.StateType]) -> list[ct.StateType]:
    """One type for each state: the caller's, by the name of its buffer, else float16.

    Empty where the caller gives none; coremltools then makes the same.

    Raises:
        LoweringError: a type has another shape than the state.
    """
    if not states:
        return []
    given = {state.name: state for state in states}
    names = {stored.name: stored.buffer for stored in prepared.stored}
    found = []
    for name, tensor in prepared.states().items():
        own = given.get(names.get(name, ""))
        shape = tuple(tensor.shape)
        if own is not None and tuple(own.shape.symbolic_shape) not in (
            shape,
            () if shape == (1,) else shape,
        ):
            raise LoweringError(
                f"the state {own.name!r} has another shape than its buffer",
                expected=str(shape),
                found=str(tuple(own.shape.symbolic_shape)),
            )
        found.append(ct.StateType(ct.TensorType(shape=shape, dtype=np.float16), name=name))
    return found


def _listed(names: Sequence[str]) -> str:
    return ("buffer " if len(names) == 1 else "buffers ") + ", ".join(map(repr, names))


def _package_type(name: str, dtype: torch.dtype, float_type: type) -> type:
    if dtype.is_complex:
        raise ComplexError(
            f"{name!r} is complex, and Core ML has real numbers only",
            found=str(dtype),
            hint="pass and return real and imaginary parts, as torch.view_as_real gives them",
        )
    return float_type if dtype.is_floating_point else types.int32


def _matched(names: Sequence[str], overrides: Sequence[Any] | None, what: str) -> dict[str, Any]:
    """The overrides by public name."""
    if not overrides:
        return {}
    named = [ct.TensorType(name=entry) if isinstance(entry, str) else entry for entry in overrides]
    if all(entry.name in names for entry in named):
        return {entry.name: entry for entry in named}
    if len(named) == len(names):
        return dict(zip(names, named, strict=True))
    raise LoweringError(
        f"the given {what}s fit the program neither by name nor by number",
        expected=", ".join(names),
        found=", ".join(str(entry.name) for entry in named),
    )


def _completed(override: Any, default: ct.TensorType) -> object:
    """A copy of the user's type with what it leaves open taken from ``default``."""
    completed = copy.deepcopy(override)  # coremltools writes into what it is given
    if completed.name is None:
        completed.name = default.name
    if completed.shape is None:
        completed.shape = default.shape
    if isinstance(completed, ct.TensorType) and completed.dtype is None:
        completed.dtype = default.dtype
    return completed
