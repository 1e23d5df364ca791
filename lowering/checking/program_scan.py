"""Findings in a captured program: its operators, its signature, its values on example inputs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.utils._pytree import tree_leaves

from frontend.capturing import BRANCHES
from frontend.random_calls import UNINITIALISED, draws_random
from frontend.source import Source, source_of
from lowering.checking.result import Findings
from lowering.checking.rules import Severity
from lowering.checking.suspects import Suspects
from lowering.checking.values import finite_peak, is_beyond, problem_of, tensors
from lowering.conversion.prepare import mask_constants
from lowering.conversion.tiny_constants import tiny_guard
from lowering.conversion.unsupported import unsupported_nodes
from lowering.verification import fx_values

_MAX_RANK = 5
_TOO_LARGE_FOR_A_BOUND = 2**31 - 2


def scan_program(
    program: ExportedProgram, findings: Findings, *, lowered: Collection[Any], states: bool
) -> None:
    """What the graph and the signature say.

    Args:
        program: the program as it would be converted.
        findings: takes what is found.
        lowered: operators that our tables lower.
        states: the deployment target has states.
    """
    for node, missing in unsupported_nodes(program.graph, lowered):
        findings.add(missing.rule, missing.reason, op=str(node.target), place=place_of(node),
                     remedy=missing.hint)  # fmt: skip
    for node in program.graph.nodes:
        if node.op == "call_function":
            _operator(node, findings)
    for module, line in program.graph_module.meta.get(BRANCHES, ()):
        findings.add("branch-on-data", "Python asks for a truth value", place=Source(module, line))
    _inputs(program, findings)
    _outputs(program, findings)
    _states(program, findings, states)


def scan_values(program: ExportedProgram, findings: Findings, suspects: Suspects) -> bool:
    """Runs the program on its example inputs and looks at every value; whether there were any."""
    masks = mask_constants(program)
    for name, tensor in {**program.state_dict, **program.constants}.items():
        if isinstance(tensor, Tensor) and is_beyond(tensor):
            _stored(name, tensor, findings, name in masks)
    if program.example_inputs is None:
        return False
    beyond: set[fx.Node] = set()

    def look(node: fx.Node, value: object) -> object:
        if getattr(node.target, "overloadpacket", None) in UNINITIALISED:
            return value
        suspects.see(node, value)
        before = any(argument in beyond for argument in node.all_input_nodes)
        if any(is_beyond(tensor) for tensor in tensors(value)):
            beyond.add(node)
        if node.op == "call_function":
            problem = problem_of(node.target, node.args, value, before)
            if problem is not None:
                rule, sentence, severity = problem
                findings.add(rule, sentence, op=str(node.target), place=place_of(node),
                             severity=severity)  # fmt: skip
            guard = tiny_guard(node.target, node.args, node.kwargs)
            if guard is not None:
                findings.add("fp16-tiny-constant", guard, op=str(node.target),
                             place=place_of(node))  # fmt: skip
        return value

    fx_values.run(program, tree_leaves(program.example_inputs), visit=look)
    return True


def place_of(node: fx.Node) -> Source:
    """Where ``node`` comes from."""
    source = source_of(node)
    return Source(source.module, source.line)


def _operator(node: fx.Node, findings: Findings) -> None:
    op, place = str(node.target), place_of(node)
    if draws_random(node):
        findings.add("random-op", "it draws random numbers", op=op, place=place)
    if node.meta.get("unbacked_bindings"):
        findings.add("data-dependent-shape", "the size of its result depends on values",
                     op=op, place=place)  # fmt: skip
    rank = max((tensor.ndim for tensor in tensors(node.meta.get("val"))), default=0)
    before = max(
        (t.ndim for n in node.all_input_nodes for t in tensors(n.meta.get("val"))), default=0
    )
    if rank > _MAX_RANK >= before:  # the one that makes it; the others follow
        findings.add("rank-above-5", f"its result has {rank} axes", op=op, place=place)


def _inputs(program: ExportedProgram, findings: Findings) -> None:
    nodes = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    for spec in program.graph_signature.input_specs:
        if spec.kind is not InputKind.USER_INPUT:
            continue
        node = nodes[spec.arg.name]
        if isinstance(spec.arg, ConstantArgument):
            if spec.arg.value is not None:
                findings.add("value-baked-in", f"argument {spec.arg.name!r} is always "
                             f"{spec.arg.value!r}")  # fmt: skip
        elif not isinstance(spec.arg, TensorArgument):
            if node.users:
                kind = type(node.meta.get("val")).__name__
                findings.add("number-input", f"argument {spec.arg.name!r} is a {kind}")
        else:
            _sizes(spec.arg.name, node.meta["val"], program, findings)


def _sizes(name: str, value: Tensor, program: ExportedProgram, findings: Findings) -> None:
    for axis, size in enumerate(value.shape):
        if isinstance(size, int):
            continue
        bounds = program.range_constraints.get(size.node.expr)
        if bounds is not None and bounds.upper > _TOO_LARGE_FOR_A_BOUND:
            findings.add("unbounded-size", f"axis {axis} of input {name!r} has no upper bound")


def _outputs(program: ExportedProgram, findings: Findings) -> None:
    results: Any = program.graph.output_node().args[0]
    for spec, node in zip(program.graph_signature.output_specs, results, strict=True):
        if spec.kind is OutputKind.USER_INPUT_MUTATION:
            findings.add("input-written", f"input {spec.target!r} is written to in place")
        value = node.meta.get("val") if isinstance(node, fx.Node) else None
        if isinstance(value, Tensor) and value.dtype.is_complex:
            findings.add("complex-numbers", "a result is complex", op=str(node.target),
                         place=place_of(node))  # fmt: skip


def _states(program: ExportedProgram, findings: Findings, available: bool) -> None:
    buffers = dict(zip(program.graph_signature.buffers, program.buffers(), strict=True))
    for name in sorted(set(program.graph_signature.buffers_to_mutate.values())):
        place = Source(name.rpartition(".")[0])
        message = f"buffer {name!r} is written"
        if not buffers[name].is_floating_point():
            findings.add("integer-state", message, place=place)
        if bool((buffers[name] != 0).any()):
            findings.add("state-start", message, place=place)
        if not available:
            findings.add("state-needs-ios18", message, place=place)


def _stored(name: str, tensor: Tensor, findings: Findings, masks: bool) -> None:
    place = Source(name)
    if tensor.is_floating_point():
        peak = finite_peak(tensor)
        if peak:  # infinities stay what they are
            rule = "fp16-large-constant" if masks else "fp16-large-weight"
            findings.add(rule, f"stored values up to {peak:.3g}", place=place)
    else:
        findings.add("int64-range", "stored integers outside of int32", place=place,
                     severity=Severity.NOTE)  # fmt: skip
