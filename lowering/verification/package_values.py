"""Values of a package by MIL name, and which of them are values of the torch program."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from frontend.source import Source, source_of
from lowering.package.dtypes import FP16
from lowering.package.source_table import SourceTable
from lowering.reference import ExecutionError, LoadedModel
from lowering.reference.program import Op, Value
from lowering.reference.states import State
from lowering.verification import fx_values
from lowering.verification.image_inputs import image_of
from lowering.verification.original import Original, VerificationError

# What coremltools' casting passes append to the name of a value they give another type.
_CAST_SUFFIX = re.compile(r"(_cast_(to_)?(fp16|fp32|bool|u?int\d+))+$")
_PART = re.compile(r"^(.*?)(?:_cast_fp16)*_(\d+)$")


@dataclass
class PackageRun:
    """One call of a package with every tensor it computed.

    Attributes:
        values: MIL value name to tensor, floats in float32.
        states: the package's states after the call.
        error: why the call ended early, ``None`` when it did not.
        misshapen: values whose shape is not the declared one, in program order.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    states: dict[str, Tensor] = field(default_factory=dict)
    error: ExecutionError | None = None
    misshapen: list[str] = field(default_factory=list)


def run(model: LoadedModel, feed: Mapping[str, object], state: State | None = None) -> PackageRun:
    """Calls ``model`` and keeps all values, as far as it gets.

    Args:
        model: the loaded package.
        feed: inputs by name, from :func:`feed_of`.
        state: what the calls before left, and what this one changes; by default a fresh one, as
            the package starts with on a device.
    """
    state = model.make_state() if state is None else state
    done = PackageRun()

    def observe(op: Op, results: tuple[object, ...], computed: tuple[object, ...]) -> None:
        for declared, value in zip(op.outputs, results, strict=True):
            if not isinstance(value, Tensor):
                continue
            done.values[declared.name] = value.clone()
            if declared.shape is not None and not fits(value.shape, declared.shape):
                done.misshapen.append(declared.name)

    try:
        for name, value in model.run(feed, state, observe).items():
            if isinstance(value, np.ndarray):  # a constant is computed by no op
                done.values.setdefault(name, in_float32(value))
    except ExecutionError as error:
        done.error = error
    done.states = {name: state.cells[name].value.clone() for name in state}
    return done


def in_float32(array: np.ndarray) -> Tensor:
    """``array`` as the interpreter holds it: every float in float32, see :class:`PackageRun`."""
    tensor = torch.from_numpy(array)
    return tensor.float() if array.dtype.kind == "f" else tensor


def fits(shape: Sequence[int], declared: Sequence[int]) -> bool:
    """Whether ``shape`` is one of those ``declared``; -1 stands for any size."""
    return len(shape) == len(declared) and all(
        want < 0 or want == have for have, want in zip(shape, declared, strict=True)
    )


def feed_of(model: LoadedModel, original: Original) -> dict[str, Any]:
    """The original's inputs as the package takes them: by name, else by position.

    Where the package takes an image, it gets the original's, or the nearest one is made, see
    ``image_inputs``.

    Raises:
        VerificationError: the package takes other inputs.
    """
    return feed(model, original.inputs(), original.images)


def feed(
    model: LoadedModel, inputs: Mapping[str, Tensor], images: Mapping[str, object]
) -> dict[str, Any]:
    """See :func:`feed_of`; ``images`` has pictures that stand for inputs, by the inputs' names."""
    names = list(model.inputs)
    if len(names) != len(inputs):
        raise VerificationError(
            "the package takes other inputs than the model",
            expected=", ".join(inputs) or "none",
            found=", ".join(names) or "none",
        )
    by_name = set(names) == set(inputs)
    fed: dict[str, Any] = {}
    for name, (own, tensor) in zip(names, inputs.items(), strict=True):
        feature = model.inputs[name]
        given = inputs[name] if by_name else tensor
        image = images.get(name if by_name else own)
        if feature.image is not None:
            fed[name] = image_of(model, name, given) if image is None else image
            continue
        if image is not None:
            raise VerificationError(
                f"input {name!r} of the package takes numbers, and is to be given a picture",
                expected="an image input",
                found=f"an array of {feature.dtype.name}",
                hint="convert the model's folder, which has the form of its pictures",
            )
        if feature.ranges is not None and len(feature.ranges) not in (given.ndim, given.ndim or 1):
            raise VerificationError(
                f"input {name!r} of the package does not fit the model's {own!r}",
                expected=f"{len(feature.ranges)} axes",
                found=str(tuple(given.shape)),
            )
        # Core ML has no inputs of rank 0.
        given = given.detach().float() if given.dtype is torch.bfloat16 else given.detach()
        array = given.reshape(1) if feature.ranges is not None and not given.ndim else given
        fed[name] = array.numpy().astype(feature.dtype.storage)
    return fed


def declares_fp16(model: LoadedModel) -> bool:
    """Whether any value of the package is declared fp16."""
    return any(output.dtype is FP16 for op in model.ops for output in op.outputs)


def matches(model: LoadedModel, program: ExportedProgram) -> dict[str, str]:
    """FX node name to the MIL value that holds the node's result, in program order.

    A MIL value is named after its FX node, coremltools' suffixes for casts aside; parts of a
    split have a number, and the only part that is used has none. Its declared shape must be the
    node's, axes of size 1 aside: some passes of coremltools keep the name of a value that they
    transpose. Ops that coremltools named after their type are told by their source.
    """
    nodes = {node.name: node for node in program.graph.nodes if fx_values.is_tensor(node)}
    parts = {
        (part[0].name, part[1]): node
        for node in nodes.values()
        if (part := part_of(node)) is not None
    }
    found: dict[str, str] = {}
    unnamed: list[tuple[Op, Value]] = []
    for op in model.ops:
        for output in op.outputs:
            base = _CAST_SUFFIX.sub("", output.name)
            node = nodes.get(base) or _part(base, parts) or parts.get((base, 0))
            if node is None:
                unnamed.append((op, output))
            elif _same_shape(output.shape, node.meta["val"].shape):
                found[node.name] = output.name
    # Outputs of the package have public names of their own.
    outputs = fx_values.returned(program)[1]
    for node, (_, name) in zip(outputs, output_values(model, program), strict=True):
        if node.op != "placeholder":
            found.setdefault(node.name, name)
    taken = set(found.values())
    _match_by_source(
        [item for item in unnamed if item[1].name not in taken],
        [node for node in nodes.values() if node.name not in found and node.op != "placeholder"],
        SourceTable.from_metadata(model.metadata),
        found,
    )
    order = {node.name: position for position, node in enumerate(program.graph.nodes)}
    return dict(sorted(found.items(), key=lambda item: order[item[0]]))


def _match_by_source(
    unnamed: Sequence[tuple[Op, Value]],
    left: Sequence[fx.Node],
    table: SourceTable,
    found: dict[str, str],
) -> None:
    """Adds pairs of a value and a node that alone share a source, an element type and a shape."""
    for node in left:
        want, shape = source_of(node), node.meta["val"].shape
        is_float = node.meta["val"].is_floating_point()
        same = [n for n in left if source_of(n) == want and n.meta["val"].shape == shape]
        values = [
            output.name
            for op, output in unnamed
            if table.lookup(op.name) == want
            and _same_shape(output.shape, shape)
            and output.dtype is not None
            and output.dtype.is_float == is_float
        ]
        if len(same) == len(values) == 1 and want != Source():
            found[node.name] = values[0]


def output_values(model: LoadedModel, program: ExportedProgram) -> list[tuple[str, str]]:
    """Public name and MIL value of each output, in the order of the program's.

    A classifier returns a label and a dictionary in the place of its probabilities.

    Raises:
        VerificationError: the program has another number of tensor outputs, or none.
    """
    expected = fx_values.returned(program)[1]
    found = [(output.name, output.name) for output in model.program.outputs]
    public = {name for name, _ in found}
    for op in model.ops:
        if op.type == "classify" and public.intersection(output.name for output in op.outputs):
            made = {output.name for output in op.outputs}
            found = [item for item in found if item[0] not in made]
            value = op.inputs["probabilities"][0]
            name = _CAST_SUFFIX.sub("", value)
            found.insert(_place(model, value, name, expected), (name, value))
    check_outputs([name for name, _ in found], expected)
    return found


def _place(model: LoadedModel, value: str, name: str, expected: Sequence[fx.Node]) -> int:
    """Which of the program's outputs a classifier's probabilities are: by name, else by shape."""
    names = [node.name for node in expected]
    if name in names:
        return names.index(name)
    declared = {output.name: output.shape for op in model.ops for output in op.outputs}
    same = [_same_shape(declared.get(value), node.meta["val"].shape) for node in expected]
    return same.index(True) if True in same else 0


def returned(
    model: LoadedModel, program: ExportedProgram, results: Mapping[str, object]
) -> list[Tensor]:
    """The tensors among what a call of ``model`` returned, in the order of the program's."""
    tables = [np.array([*value.values()]) for value in results.values() if isinstance(value, dict)]
    return [
        torch.from_numpy(results[value] if value in results else tables[0])
        for _, value in output_values(model, program)
    ]


def check_outputs(names: Sequence[str], expected: Sequence[object]) -> None:
    """Raises :class:`VerificationError` unless there are as many outputs as ``expected``."""
    if not expected:
        raise VerificationError(
            "the model returns no tensor, so there is nothing to compare",
            expected="one tensor or more",
            found=", ".join(names) or "no output",
        )
    if len(names) != len(expected):
        raise VerificationError(
            "the package has other outputs than the model",
            expected=f"{len(expected)} tensors",
            found=", ".join(names),
        )


def part_of(node: fx.Node) -> tuple[fx.Node, int] | None:
    """The node with several results that ``node`` takes one of, and which; ``None`` for others."""
    if node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem":
        source, index = node.args[0], node.args[1]
        if isinstance(source, fx.Node) and isinstance(index, int):
            return source, index
    return None


def _part(name: str, parts: Mapping[tuple[str, int], fx.Node]) -> fx.Node | None:
    match = _PART.match(name)
    return parts.get((match[1], int(match[2]))) if match else None


def _same_shape(declared: Sequence[int] | None, shape: Sequence[object]) -> bool:
    if declared is None:
        return False
    ours = [size for size in declared if size != 1]
    theirs = [size for size in shape if size != 1]
    return len(ours) == len(theirs) and all(
        a < 0 or not isinstance(b, int) or a == b for a, b in zip(ours, theirs, strict=True)
    )


def segment(model: LoadedModel, value: str, known: set[str]) -> list[Op]:
    """Ops that compute ``value`` from the values in ``known`` and from inputs, in order."""
    made_by = {output.name: op for op in model.ops for output in op.outputs}
    wanted, reached = [value], set()
    while wanted:
        op = made_by.get(wanted.pop())
        if op is None or op.name in reached:
            continue
        reached.add(op.name)
        inner = [other for other in model.ops if op.name in other.block]
        for member in (op, *inner):
            names = [name for names in member.inputs.values() for name in names]
            wanted += [name for name in names if name not in known]
    return [op for op in model.ops if op.name in reached]


def in_form_of(value: Tensor, reference: Tensor) -> Tensor | None:
    """``value`` in the shape and dtype of ``reference``; ``None`` if the sizes differ."""
    if value.numel() != reference.numel():
        return None
    return value.reshape(reference.shape).to(reference.dtype)


def merge(value: Tensor, delta_from: Tensor, onto: Tensor) -> Tensor:
    """``onto`` with what sets ``value`` apart from ``delta_from`` added; ``value`` elsewhere."""
    if not value.is_floating_point():
        return value
    moved = onto + (value - delta_from)
    return torch.where(torch.isfinite(moved), moved, value)
