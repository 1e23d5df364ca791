"""Takes operators apart once for each kind of call, and not once for each call.

torch's ``run_decompositions`` runs the whole program three times over, though a model of many
layers says the same few things again and again: 24 layers of a DistilBERT are 700 calls of 20
kinds. It was a fifth of the whole path (*measured*, torch 2.13). Here torch takes apart a program
of one call of each kind, and the pieces go where the calls were, under the names that torch gives.
Kinds that differ in their sizes alone share what is found where no size decides it.

That is the same where a program is a plain sequence of calls: sizes are numbers, nothing holds a
graph of its own, and nothing is written but what nobody else sees. Any other program is torch's.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, cast

import torch
from torch import fx
from torch._ops import OperatorBase, OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.utils import _pytree as pytree

from frontend.call_kinds import (
    Piece,
    UnknownKindError,
    family_of,
    kind_of,
    parts_of,
    piece_like,
    results_of,
    tensors_of,
)

# What run_decompositions does, with its table.
TakeApart: TypeAlias = Callable[[ExportedProgram], ExportedProgram]
# Functional operator and kind of each call.
_Calls: TypeAlias = dict[fx.Node, tuple[OpOverload, Hashable]]


def taken_apart(
    program: ExportedProgram, take_apart: TakeApart, operators: Container[OperatorBase]
) -> ExportedProgram:
    """``take_apart(program)``, asked of each kind of call once where that is the same.

    Args:
        program: as it was exported.
        take_apart: takes a program apart.
        operators: those that its table takes apart.
    """
    calls = _calls(program)
    pieces = None if calls is None else _pieces(program, calls, take_apart, operators)
    if calls is None or pieces is None:
        return take_apart(program)
    return _joined(program, calls, pieces)


def _calls(program: ExportedProgram) -> _Calls | None:
    """Functional operator and kind of each call; ``None`` for a program that is no plain sequence.

    Calls without a result, which are checks of the trace, and those that pick one of several
    results are left out.
    """
    signature = program.graph_signature
    if any(spec.kind is not OutputKind.USER_OUTPUT for spec in signature.output_specs) or any(
        spec.kind is InputKind.TOKEN for spec in signature.input_specs
    ):
        return None
    calls: _Calls = {}
    for node in program.graph.nodes:
        if node.op == "output":
            continue
        value = node.meta.get("val")
        if node.op == "placeholder":
            if isinstance(value, torch.Tensor | torch.SymInt) and not _is_static(value):
                return None
            continue
        if node.op != "call_function" or not all(_is_static(v) for v in tensors_of(value)):
            return None
        if node.target is operator.getitem:
            if node.args[0] not in calls:
                return None
            continue
        target = _functional(node)
        if target is None:
            return None
        if value is None:
            continue
        try:
            calls[node] = (target, (target, kind_of(node, (node.args, node.kwargs))))
        except UnknownKindError:
            return None
    return calls


def _functional(node: fx.Node) -> OpOverload | None:
    """The operator without its writing to what nobody else sees; ``None`` where it writes."""
    target = node.target
    if not isinstance(target, OpOverload):
        return None
    if not target._schema.is_mutable:
        return target
    written = node.args[0] if node.args else None
    is_own = isinstance(written, fx.Node) and len(written.users) == 1 and _is_fresh(written)
    packet, _, overload = target._schema.name.partition("::")[2].rpartition("_")
    if not is_own or overload or target.namespace != "aten":
        return None
    found = getattr(getattr(torch.ops.aten, packet, None), target._overloadname, None)
    if not isinstance(found, OpOverload) or found._schema.is_mutable:
        return None
    names = [argument.name for argument in target._schema.arguments]
    return found if [a.name for a in found._schema.arguments] == names else None


# Composites whose result has memory of its own. Others may return an argument, or a view of one,
# and their schemas do not say so (``dropout``, ``type_as``, ``einsum``).
_FRESH_COMPOSITES = (
    *("linear", "matmul", "conv1d", "conv2d", "conv3d"),
    *("batch_norm", "layer_norm", "group_norm", "instance_norm"),
)


def _is_fresh(node: fx.Node) -> bool:
    """True for a tensor of its own memory: nothing else can see what is written to it."""
    target = node.target
    return (
        isinstance(target, OpOverload)
        and isinstance(node.meta.get("val"), torch.Tensor)
        and all(result.alias_info is None for result in target._schema.returns)
        and (target._opname in _FRESH_COMPOSITES or not target._can_decompose())
    )


def _pieces(
    program: ExportedProgram,
    calls: _Calls,
    take_apart: TakeApart,
    operators: Container[OperatorBase],
) -> dict[Hashable, Piece] | None:
    """What each kind of call is taken apart into; ``None`` where torch makes more than pieces."""
    examples = {kind: node for node, (_, kind) in reversed(calls.items())}
    if not examples:
        return None
    families: dict[Hashable, Hashable] = {}  # and the first kind of each
    firsts: dict[Hashable, Hashable] = {}
    for kind, node in examples.items():
        firsts[kind] = families.setdefault(_family(node, calls, operators), kind)
    asked = {kind: examples[kind] for kind in families.values()}
    pieces = _asked(program, calls, asked, take_apart)
    if pieces is None:
        return None
    left: dict[Hashable, fx.Node] = {}
    for kind, node in examples.items():
        first = firsts[kind]
        if first == kind:
            continue
        piece = piece_like(pieces[first], examples[first], node, calls[node][0])
        if piece is not None and _is_like(node, piece.results):
            pieces[kind] = piece
        else:
            left[kind] = node
    more = _asked(program, calls, left, take_apart) if left else {}
    return None if more is None else {**pieces, **more}


def _family(node: fx.Node, calls: _Calls, operators: Container[OperatorBase]) -> Hashable:
    """Of calls that go the same way; a kind that is alone is its own."""
    target, kind = calls[node]
    shared = family_of(node, target, operators)
    return kind if shared is None else shared


def _asked(
    program: ExportedProgram,
    calls: _Calls,
    examples: Mapping[Hashable, fx.Node],
    take_apart: TakeApart,
) -> dict[Hashable, Piece] | None:
    """The pieces of ``examples``, by kind, as torch takes a program of them apart."""
    graph, results = fx.Graph(), dict[Hashable, list[fx.Node]]()
    given: dict[Hashable, list[fx.Node]] = {}
    for number, (kind, node) in enumerate(examples.items()):
        stand_ins: dict[fx.Node, fx.Node] = {}
        for position, argument in enumerate(node.all_input_nodes):
            stand_ins[argument] = graph.placeholder(f"given_{number}_{position}")
            stand_ins[argument].meta["val"] = argument.meta["val"].detach()
        given[kind] = list(stand_ins.values())
    for kind, node in examples.items():
        stand_in = dict(zip(node.all_input_nodes, given[kind], strict=True))
        args, kwargs = fx.map_arg((node.args, node.kwargs), stand_in.__getitem__)
        call = graph.call_function(calls[node][0], args, kwargs)
        call.meta = dict(node.meta)
        results[kind] = results_of(call)
    graph.output(tuple(result for parts in results.values() for result in parts))
    apart = take_apart(_program(program, graph))
    nodes = list(apart.graph.nodes)
    arguments = [node for node in nodes if node.op == "placeholder"]
    returned = cast(tuple[Any, ...], apart.graph.output_node().args[0])
    counts = sum(map(len, given.values())), sum(map(len, results.values()))
    if (len(arguments), len(returned)) != counts or any(
        node.op not in ("placeholder", "call_function", "output") for node in nodes
    ):
        return None  # a constant of its own, for instance
    places, found = {node: place for place, node in enumerate(nodes)}, {}
    for kind, node in examples.items():
        own, arguments = arguments[: len(given[kind])], arguments[len(given[kind]) :]
        last, returned = returned[: len(results[kind])], returned[len(results[kind]) :]
        if not all(isinstance(result, fx.Node) for result in last):
            return None
        if not _is_like(node, last):
            return None
        steps = sorted(_behind(last), key=places.__getitem__)
        found[kind] = Piece(tuple(own), tuple(steps), tuple(last))
    return found


def _is_like(node: fx.Node, results: Iterable[fx.Node]) -> bool:
    """Whether results are what the call gave: a write in place casts to what it writes to."""
    return all(
        was.shape == now.meta["val"].shape and was.dtype is now.meta["val"].dtype
        for was, now in zip(tensors_of(node.meta["val"]), results, strict=True)
    )


def _behind(results: Iterable[fx.Node]) -> set[fx.Node]:
    """Every operator that ``results`` come from."""
    pending, found = list(results), set[fx.Node]()
    while pending:
        node = pending.pop()
        if node.op == "call_function" and node not in found:
            found.add(node)
            pending.extend(node.all_input_nodes)
    return found


def _program(program: ExportedProgram, graph: fx.Graph) -> ExportedProgram:
    """``graph``, whose placeholders are all arguments, as a program of the same dialect."""
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    outputs = cast(tuple[fx.Node, ...], graph.output_node().args[0])
    call = ModuleCallSignature(
        inputs=[],
        outputs=[],
        in_spec=pytree.tree_structure((tuple(range(len(inputs))), {})),
        out_spec=pytree.tree_structure(tuple(range(len(outputs)))),
    )
    return ExportedProgram(
        root={},
        graph=graph,
        graph_signature=ExportGraphSignature(
            [InputSpec(InputKind.USER_INPUT, TensorArgument(n.name), None) for n in inputs],
            [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(n.name), None) for n in outputs],
        ),
        state_dict={},
        range_constraints={},
        module_call_graph=[ModuleCallEntry("", call)],
        example_inputs=None,
        constants={},
        verifiers=program.verifiers,
    )


def _joined(
    program: ExportedProgram,
    calls: _Calls,
    pieces: dict[Hashable, Piece],
) -> ExportedProgram:
    """``program`` with the pieces in the place of its calls."""
    graph, now, parts = fx.Graph(), dict[fx.Node, fx.Node](), dict[fx.Node, list[fx.Node]]()
    for node in program.graph.nodes:
        if node.op == "output":
            graph.output(fx.map_arg(node.args[0], now.__getitem__))
        elif node.target is operator.getitem:
            now[node] = parts[node.args[0]][node.args[1]]
        elif node not in calls:
            now[node] = graph.node_copy(node, now.__getitem__)
            now[node].meta = dict(node.meta)
            if node.op == "placeholder":
                now[node].name = node.name  # fx renames what looks like a builtin
        else:
            piece = pieces[calls[node][1]]
            given = [now[argument] for argument in node.all_input_nodes]
            parts[node] = _laid(graph, piece, given, node)
            now[node] = parts[node][0]
    graph.eliminate_dead_code()
    signature = program.graph_signature
    outputs = [
        replace(spec, arg=replace(spec.arg, name=result.name))
        if isinstance(result, fx.Node)
        else spec
        for spec, result in zip(
            signature.output_specs, cast(Sequence[Any], graph.output_node().args[0]), strict=True
        )
    ]
    return ExportedProgram(
        root=program.graph_module,
        graph=graph,
        graph_signature=ExportGraphSignature(list(signature.input_specs), outputs),
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph[:1],
        example_inputs=program.example_inputs,
        constants=program.constants,
    )


def _laid(
    graph: fx.Graph, piece: Piece, given: Iterable[fx.Node], origin: fx.Node
) -> list[fx.Node]:
    """Adds the steps of ``piece`` to ``graph``; what it returns there."""
    now = dict(zip(piece.given, given, strict=True))
    for step in piece.steps:
        if step in now:  # one of several results
            continue
        args, kwargs = fx.map_arg((step.args, step.kwargs), now.__getitem__)
        target = cast(Any, step.target)
        packet = getattr(target, "overloadpacket", target)  # torch names a step after it
        name = graph._target_to_str(packet.__name__)
        now[step] = graph.create_node("call_function", target, args, kwargs, name)
        now[step].meta = {**origin.meta, "val": step.meta["val"]}
        if not isinstance(step.meta["val"], torch.Tensor):
            # torch names the results that nobody reads as well.
            taken = {user.args[1]: user for user in step.users}
            for place, part in enumerate(parts_of(now[step])):
                part.meta = {**origin.meta, **part.meta}
                if place in taken:
                    now[taken[place]] = part
    return [now[result] for result in piece.results]


def _is_static(value: object) -> bool:
    return isinstance(value, FakeTensor) and all(
        isinstance(size, int) for size in (*value.shape, *value.stride(), value.storage_offset())
    )
