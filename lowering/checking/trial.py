"""A lowering for trial: every lowering that fails, and where the rest is predicted to run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import coremltools as ct
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument

from frontend.source import Source
from lowering.checking.half_run import scan_halves
from lowering.checking.program_scan import place_of
from lowering.checking.result import Findings, PlacementSummary
from lowering.checking.rules import Rule, Severity
from lowering.conversion.builder import Lowering
from lowering.conversion.converter import lower
from lowering.conversion.metadata import sources_of
from lowering.conversion.prepare import Prepared, contiguous, prepare
from lowering.conversion.unsupported import unsupported_nodes
from lowering.errors import LoweringError
from lowering.planner.doubts import Doubt
from lowering.planner.placement import plan

# Each failed lowering costs one more attempt at the whole program.
MAX_ATTEMPTS = 20
# One finding, whatever operators it concerns: sizes are the inputs', prices a whole stretch's.
_OF_NO_OPERATOR = ("shape.symbolic", "segment.price")
_NOT_WORTH = (
    "the ANE can run it, but going there costs more than it saves, by the dispatcher's price"
)
# What is reported elsewhere counts as an obstacle from this confidence on.
_SURE = 0.7
# Padding is worth a word where it is most of what is stored, and that is not small.
_PADDING_PER_BYTE, _LARGE_BYTES = 3.0, 1 << 16


def try_lowering(
    program: ExportedProgram,
    table: Mapping[Any, Lowering],
    findings: Findings,
    *,
    deployment_target: object,
    chip: str,
    in_half: bool = False,
) -> tuple[PlacementSummary | None, tuple[str, ...]]:
    """Lowers what can be lowered; each operator that fails becomes a finding and is cut out.

    What follows a cut reads a new input in its place, so that the rest of the program is still
    looked at. With ``in_half`` a program that is whole is also run in float16.

    Returns:
        The predicted placement, ``None`` where nothing could be lowered, and notes.
    """
    try:
        prepared = prepare(program, fp16=True)
    except LoweringError as error:
        _add(findings, error, None)
        return None, ()
    nodes = [node for node, _ in unsupported_nodes(prepared.program.graph, table)]
    states = bool(program.graph_signature.buffers_to_mutate)
    target = max(deployment_target, ct.target.iOS18) if states else deployment_target
    complete = not nodes
    for _ in range(MAX_ATTEMPTS):
        stuck = cut(prepared, nodes)
        if stuck is not None:
            return None, (f"nothing is said about placement: {stuck}",)
        try:
            model = lower(prepared, table, minimum_deployment_target=target, skip_model_load=True)
        except LoweringError as error:
            failed = [n for n in prepared.program.graph.nodes if n.name == error.node]
            _add(findings, error, failed[0] if failed else None)
            if not failed:
                return None, ()
            nodes, complete = failed, False
            continue
        placement = _place(model, prepared, findings, chip, complete)
        if not in_half:
            return placement, ()
        if not complete:
            return placement, ("nothing was run in float16: parts of the program are missing",)
        return placement, scan_halves(model, prepared, program, findings)
    return None, (f"stopped looking after {MAX_ATTEMPTS} lowerings that fail",)


def cut(prepared: Prepared, nodes: Collection[fx.Node]) -> str | None:
    """Puts a new input in the place of each result of ``nodes``; why not, where it cannot be.

    ``prepared`` is a copy of its own, and is edited.
    """
    graph, signature = prepared.program.graph, prepared.program.graph_signature
    places = _real_results(graph, nodes)
    for node in places:
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or any(not _is_bounded(size) for size in value.shape):
            return f"what {nodes and node.target} computes has no size before the model runs"
    for node in places:
        first = next(n for n in graph.nodes if n.op != "placeholder")
        with graph.inserting_before(first):
            stand_in = graph.placeholder(f"{node.name}_cut")
        stand_in.meta = {**node.meta, "val": contiguous(node.meta["val"])}
        node.replace_all_uses_with(stand_in)
        spec = InputSpec(InputKind.USER_INPUT, TensorArgument(stand_in.name), None)
        signature.input_specs.append(spec)
        prepared.inputs.append(stand_in.name)
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    return None


def _real_results(graph: fx.Graph, nodes: Collection[fx.Node]) -> list[fx.Node]:
    """Where real tensors come out of ``nodes`` and of the complex numbers around them."""
    gone, found = set(nodes), []
    for node in graph.nodes:
        from_gone = any(argument in gone for argument in node.all_input_nodes)
        if node in gone or (from_gone and _is_complex_or_many(node, gone)):
            gone.add(node)
    for node in graph.nodes:
        if node in gone and any(user not in gone for user in node.users):
            found.append(node)
    return found


def _is_complex_or_many(node: fx.Node, gone: Collection[fx.Node]) -> bool:
    """Goes with its arguments: it reads complex numbers, or picks one of several results."""
    arguments = [a.meta.get("val") for a in node.all_input_nodes if a in gone]
    return any(not isinstance(value, Tensor) or value.dtype.is_complex for value in arguments)


def _is_bounded(size: object) -> bool:
    return isinstance(size, int) or not str(size).startswith("u")


def _add(findings: Findings, error: LoweringError, node: fx.Node | None) -> None:
    if node is None and findings.has(error.rule):
        return  # the program itself has shown it
    findings.add(
        error.rule,
        error.message.partition("\n")[0],
        op="" if node is None else str(node.target),
        place=None if node is None else place_of(node),
        remedy=error.details["next step"],
    )


def _place(
    model: object, prepared: Prepared, findings: Findings, chip: str, complete: bool
) -> PlacementSummary:
    made = plan(model, chip=chip, sources=sources_of(model, prepared))
    reasons = {}
    for op in made.ops:
        place = Source(op.source.module, op.source.line)
        if op.reason is None:
            figures = op.figures
            if figures.padding >= _PADDING_PER_BYTE and figures.working_set_bytes >= _LARGE_BYTES:
                share = figures.padding / (1 + figures.padding)
                sizes = "×".join(map(str, figures.shape))
                message = f"{share:.0%} of what {sizes} takes is padding (predicted)"
                findings.add("padding", message, op=op.op_type, place=place)
            continue
        reasons[op.reason.rule] = op.reason
        rule = Rule(op.reason.rule, Severity.OFF_ANE, "", remedy=op.reason.hint)
        sentence = _NOT_WORTH if op.reason.rule == "segment.price" else op.reason.sentence
        findings.add(
            rule,
            f"{sentence} (predicted)",
            op="" if op.reason.rule in _OF_NO_OPERATOR else op.op_type,
            place=place,
        )
    by_name = {op.name: op for op in made.ops}
    for doubt in made.doubts:
        rule = Rule(doubt.reason.rule, _severity(doubt), "", remedy=doubt.reason.hint)
        sentence = f"{doubt.reason.sentence} (reported, {doubt.reason.confidence:.0%} sure)"
        if not doubt.ops:
            findings.add(rule, sentence)
        for op in (by_name[name] for name in doubt.ops):
            place = Source(op.source.module, op.source.line)
            findings.add(rule, sentence, op=op.op_type, place=place)
    on_ane = sum(op.device == "ane" for op in made.ops)
    return PlacementSummary(made.target, len(made.ops), on_ane, complete, reasons)


def _severity(doubt: Doubt) -> Severity:
    if doubt.verdict == "not_ane" and doubt.reason.confidence >= _SURE:
        return Severity.OFF_ANE
    return Severity.SLOW if doubt.verdict == "slow" else Severity.NOTE
