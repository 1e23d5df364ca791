"""Finds the pass after which a program computes something else."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx
from torch.export import ExportedProgram

from frontend.source import Source, source_of
from lowering.verification import fx_values
from lowering.verification.original import Original
from lowering.verification.parity import rel_l2
from lowering.verification.result import PassFault
from passes.base import Pass
from passes.pipeline import run as run_passes


def faulty_pass(original: Original, threshold: float) -> PassFault | None:
    """The first pass whose program's results differ by more than ``threshold`` from capture's.

    Args:
        original: with the captured program and the pipeline; otherwise there is nothing to find.
        threshold: relative L2 error, in float32.
    """
    if original.captured is None or not original.pipeline:
        return None
    first, _ = _values(original.captured, original)
    if not _error(_values(original.program, original)[0], first) > threshold:
        return None
    last_error, last_values = 0.0, _values(original.captured, original)[1]
    program = original.captured
    for position, step in enumerate(original.pipeline):
        program = _after(program, step)
        results, values = _values(program, original)
        error = _error(results, first)
        if not error <= threshold:
            node = _changed(program, values, last_values, step.name, threshold)
            source = source_of(node) if node is not None else Source()
            name = node.name if node is not None else ""
            return PassFault(step.name, position, last_error, error, name, source)
        last_error, last_values = error, values
    return None


def _after(program: ExportedProgram, step: Pass) -> ExportedProgram:
    return run_passes(program, (step,))[0]


def _values(program: ExportedProgram, original: Original) -> tuple[tuple[Any, ...], dict[str, Any]]:
    values: dict[str, Any] = {}

    def visit(node: fx.Node, value: object) -> object:
        values[node.name] = value
        return value

    return fx_values.run(program, original.leaves, visit=visit, buffers=original.buffers), values


def _error(found: tuple[Any, ...], expected: tuple[object, ...]) -> float:
    pairs = zip(found, expected, strict=True)
    return max((rel_l2(a, b) for a, b in pairs if isinstance(b, Tensor)), default=0.0)


def _changed(
    program: ExportedProgram,
    values: dict[str, Any],
    before: dict[str, Any],
    name: str,
    threshold: float,
) -> fx.Node | None:
    """The first node with another value than before, or else the first that ``name`` wrote.

    Nodes that kept their name are compared; the fault lies at or right before the first that
    differs, so the last node before it that the pass wrote is named where there is one.
    """
    written: fx.Node | None = None
    for node in program.graph.nodes:
        if name in node.meta.get("rewritten_by", ()):
            written = node
        value, old = values.get(node.name), before.get(node.name)
        if not isinstance(value, Tensor) or not isinstance(old, Tensor):
            continue
        if value.shape == old.shape and not rel_l2(value, old) <= threshold:
            return written or node
    return written
