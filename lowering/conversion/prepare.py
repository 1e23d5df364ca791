"""A copy of the program in the form coremltools can read, with the original left alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)

from frontend.fp16 import MASKED as FP16_MASKED
from frontend.fp16 import MAX as FP16_MAX
from lowering.conversion.box_writes import write_boxes
from lowering.conversion.exact_inputs import exact_inputs, small_inputs
from lowering.conversion.softmax_masks import idle_bounds, is_large, saturating
from lowering.conversion.state_chains import mark_state_chains
from lowering.conversion.stored_states import StoredState, stored_states
from lowering.errors import LoweringError, NumberInputError

# Input types that coremltools does not know, and what a package takes in their place.
_INPUT_DTYPES = {
    torch.bfloat16: torch.float32,
    torch.float64: torch.float32,
    torch.uint8: torch.int32,
    torch.int8: torch.int32,
    torch.int16: torch.int32,
}
_INT32 = torch.iinfo(torch.int32)


@dataclass(frozen=True)
class Prepared:
    """A program ready for coremltools.

    Attributes:
        program: the copy; every output is an ``alias`` node of its own.
        inputs: public input names in call order, tensors only.
        outputs: public output names in result order, tensors only. An input that is returned
            as it is gets a number: a package cannot use one name for both.
        output_nodes: names of the ``alias`` nodes behind ``outputs``, same order.
        stored: how each written buffer of the original is kept.
        exact: inputs that are float32 in a float16 package, see ``exact_inputs``.
        small: integer inputs whose type holds nothing that float16 does not.
        handles: FX node name of each debug handle, by position; coremltools carries the handle
            to every MIL op that comes from the node.
    """

    program: ExportedProgram
    inputs: list[str]
    outputs: tuple[str, ...]
    output_nodes: tuple[str, ...]
    handles: tuple[str, ...]
    stored: tuple[StoredState, ...] = ()
    exact: frozenset[str] = frozenset()
    small: frozenset[str] = frozenset()

    def states(self) -> dict[str, torch.Tensor]:
        """The buffers that the program writes, all zero, by name."""
        written = set(self.program.graph_signature.buffers_to_mutate.values())
        buffers = zip(self.program.graph_signature.buffers, self.program.buffers(), strict=True)
        return {name: tensor for name, tensor in buffers if name in written}


def prepare(
    program: ExportedProgram,
    *,
    fp16: bool = False,
    states_given: Collection[str] = (),
    boxes: bool = False,
) -> Prepared:
    """Copy ``program``; drop constant inputs and outputs; give each output a node of its own.

    Writes to inputs are dropped as well; what the program computes with them is kept.

    Args:
        program: stays as it is.
        fp16: floats will be rounded to fp16 where they fit. Numbers beyond its range that only
            tell a softmax what to leave out become its largest number: as infinities they would
            turn zeros into NaN, as in ``(1 - mask) * torch.finfo(torch.float32).min``.
        states_given: buffers that the caller has given a state type, see ``stored_states``.
        boxes: the target has ``slice_update``: writes of one box become that, see ``box_writes``.

    Raises:
        LoweringError: an input or output is neither a tensor nor a constant, there is no output,
            or a written buffer starts at a value that no state can keep.
    """
    program, stored = stored_states(program, states_given)
    signature = program.graph_signature
    unused = _constant_inputs(program)
    masks = saturating(program.graph, _constants(program)) if fp16 else frozenset()
    graph, copies = _copied_graph(program.graph, skip=unused, fp16=fp16, masks=masks)
    input_specs = [spec for spec in signature.input_specs if spec.arg.name not in unused]
    inputs = [s.arg.name for s in input_specs if s.kind is InputKind.USER_INPUT]

    kept: list[OutputSpec] = []
    outputs: list[str] = []
    returned: list[fx.Node] = []
    arguments = cast(tuple[fx.Node, ...], program.graph.output_node().args[0])
    for spec, argument in zip(signature.output_specs, arguments, strict=True):
        if spec.kind is OutputKind.USER_INPUT_MUTATION:
            continue  # the caller's tensor is out of a package's reach
        if spec.kind is not OutputKind.USER_OUTPUT:
            returned.append(copies[argument])
        elif isinstance(spec.arg, ConstantArgument):
            continue
        else:
            outputs.append(_unused_name(spec.arg.name, [*outputs, *inputs]))
            returned.append(_output_node(graph, copies[argument], outputs[-1]))
        kept.append(spec)
    if not outputs:
        raise LoweringError(
            "the model returns no tensor, and a package without outputs does nothing",
            expected="one tensor or more",
            found=f"{len(returned)} written buffers" if returned else "nothing",
            hint="return a tensor, such as the new value of a buffer that the model writes",
        )
    graph.output(tuple(returned))
    exact = exact_inputs(graph, inputs)
    if boxes:
        write_boxes(graph, _constants(program))
        returned = list(cast(tuple[fx.Node, ...], graph.output_node().args[0]))
    output_specs = [
        OutputSpec(spec.kind, TensorArgument(node.name), spec.target)
        for spec, node in zip(kept, returned, strict=True)
    ]
    prepared = _rebuilt(program, graph, input_specs, output_specs, masks)
    mark_state_chains(prepared)
    return Prepared(
        program=prepared,
        inputs=inputs,
        outputs=tuple(outputs),
        output_nodes=tuple(node.name for node in returned[len(returned) - len(outputs) :]),
        handles=_number(graph),
        stored=stored,
        exact=exact,
        small=small_inputs(program.graph, inputs),
    )


def _constant_inputs(program: ExportedProgram) -> set[str]:
    """Names of user inputs that are Python constants or None, which a package cannot take."""
    placeholders = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    constant: set[str] = set()
    for spec in program.graph_signature.input_specs:
        if spec.kind is not InputKind.USER_INPUT or isinstance(spec.arg, TensorArgument):
            continue
        node = placeholders[spec.arg.name]
        if node.users:
            raise NumberInputError(
                f"input {spec.arg.name!r} is a {type(node.meta.get('val')).__name__}, "
                "and a Core ML package takes tensors only",
                hint="pass the number as a tensor, or fix it before capturing the model",
            )
        constant.add(spec.arg.name)
    return constant


def _copied_graph(
    graph: fx.Graph, skip: set[str], fp16: bool, masks: frozenset[fx.Node]
) -> tuple[fx.Graph, dict[fx.Node | object, fx.Node]]:
    """Copy all but the output node, keeping every node's name."""
    copied = fx.Graph()
    copies: dict[fx.Node | object, fx.Node] = {}
    for node in graph.nodes:
        if node.op == "output" or node.name in skip:
            continue
        copy = copied.node_copy(node, lambda argument: copies[argument])
        copy.meta = dict(node.meta)
        # Copying a graph renames some placeholders, and the signature goes by name.
        copy.name = node.name
        value = copy.meta.get("val")
        if node.op == "placeholder" and isinstance(value, torch.Tensor):
            copy.meta["val"] = contiguous(value.to(_INPUT_DTYPES.get(value.dtype, value.dtype)))
        bounds = idle_bounds(node) if fp16 else frozenset()
        every = _mask_number if node in masks else _known_dtype
        bound = every if node in masks else _saturated_number
        copy.args = tuple(
            fx.node.map_aggregate(value, bound if position in bounds else every)
            for position, value in enumerate(copy.args)
        )
        copy.kwargs = fx.node.map_aggregate(copy.kwargs, every)
        copies[node] = copy
    return copied, copies


def contiguous(value: torch.Tensor) -> torch.Tensor:
    """A fake tensor laid out in order: a package's inputs have no strides."""
    return value if value.is_contiguous() else value.new_empty(value.shape)


def _known_dtype(argument: object) -> Any:
    """MIL has no bfloat16, and coremltools no number for it; casts to it become float32."""
    return torch.float32 if argument is torch.bfloat16 else argument


def _saturated_number(argument: Any) -> Any:
    if is_large(argument):
        return math.copysign(FP16_MAX, argument)
    return _known_dtype(argument)


def _mask_number(argument: Any) -> Any:
    if is_large(argument):
        return math.copysign(FP16_MASKED, argument)
    return _known_dtype(argument)


def mask_constants(program: ExportedProgram) -> set[str]:
    """Names of buffers and constants beyond float16 that only tell a softmax what to leave out."""
    nodes = {node.name for node in saturating(program.graph, _constants(program))}
    specs = program.graph_signature.input_specs
    return {spec.target for spec in specs if spec.target is not None and spec.arg.name in nodes}


def _constants(program: ExportedProgram) -> Callable[[fx.Node], torch.Tensor | None]:
    """Gives the tensor behind a placeholder, ``None`` for an input of the user's."""
    targets = {
        spec.arg.name: spec.target
        for spec in program.graph_signature.input_specs
        if spec.kind is not InputKind.USER_INPUT and spec.target is not None
    }

    def constant(node: fx.Node) -> torch.Tensor | None:
        target = targets.get(node.name, "")
        found = program.state_dict.get(target, program.constants.get(target))
        return found if isinstance(found, torch.Tensor) else None

    return constant


def _unused_name(name: str, taken: list[str]) -> str:
    """``name``, numbered when an input or another output of the package has it already."""
    unique, count = name, 0
    while unique in taken:
        count += 1
        unique = f"{name}_{count}"
    return unique


def _output_node(graph: fx.Graph, value: fx.Node, public: str) -> fx.Node:
    if not isinstance(value.meta.get("val"), torch.Tensor):
        raise LoweringError(
            f"output {public!r} is a {type(value.meta.get('val')).__name__}, "
            "and a Core ML package returns tensors only",
            hint="return it as a tensor, or leave it out",
        )
    node = graph.call_function(torch.ops.aten.alias.default, (value,), name=f"{public}__output")
    node.meta = dict(value.meta)
    return node


def _number(graph: fx.Graph) -> tuple[str, ...]:
    handles = []
    for handle, node in enumerate(graph.nodes):
        node.meta["debug_handle"] = handle
        handles.append(node.name)
    return tuple(handles)


def _rebuilt(
    program: ExportedProgram,
    graph: fx.Graph,
    input_specs: list[InputSpec],
    output_specs: list[OutputSpec],
    masks: frozenset[fx.Node],
) -> ExportedProgram:
    names = {node.name for node in masks}
    saturated = {spec.target for spec in input_specs if spec.arg.name in names}
    return ExportedProgram(
        root=program.graph_module,
        graph=graph,
        graph_signature=ExportGraphSignature(input_specs, output_specs),
        state_dict=_narrowed(program.state_dict, saturated),
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=_narrowed(program.constants, saturated),
        verifiers=program.verifiers,
    )


def _narrowed(tensors: dict[str, Any], masks: set[str | None]) -> dict[str, Any]:
    """The same tensors, shared, but 64-bit integers held within 32 bits, and masks within fp16.

    coremltools would wrap integers around: a sentinel such as the largest int64 would become -1.
    """

    def narrow(name: str, value: object) -> object:
        if not isinstance(value, torch.Tensor) or not value.numel():
            return value
        if value.dtype == torch.int64:
            narrowed = _within(value, _INT32.min, _INT32.max)
        elif name in masks:
            narrowed = torch.where(value.isinf(), value, _within(value, FP16_MASKED, -FP16_MASKED))
        else:
            return value
        if narrowed is not value and isinstance(value, torch.nn.Parameter):
            return torch.nn.Parameter(narrowed, requires_grad=False)  # as the signature has it
        return narrowed

    return {name: narrow(name, value) for name, value in tensors.items()}


def _within(value: torch.Tensor, lowest: float, highest: float) -> torch.Tensor:
    """``value`` itself where every number is within; else a copy whose infinities stay."""
    low, high = value.detach().aminmax()
    if lowest <= low and high <= highest:
        return value
    narrowed = value.detach().clamp(lowest, highest)
    return torch.where(value.isinf(), value.detach(), narrowed)
