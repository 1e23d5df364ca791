"""Findings of a lowered program that is run in float16, beside its exact values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import coremltools as ct
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from frontend.source import Source
from lowering.checking.result import Findings
from lowering.checking.rules import Severity
from lowering.conversion.metadata import sources_of
from lowering.conversion.prepare import Prepared
from lowering.precision import limits
from lowering.precision.ends import InputCall, Span, end_calls, is_position, spans
from lowering.precision.result import RangeFinding
from lowering.precision.survey import LOST, Survey
from lowering.reference import ExecutionError
from lowering.verification.original import Original
from lowering.verification.package_values import returned
from lowering.verification.parity import rel_l2

_EXAMPLE = "the example"


def scan_halves(
    model: ct.models.MLModel, prepared: Prepared, program: ExportedProgram, findings: Findings
) -> tuple[str, ...]:
    """Runs the float16 package of ``program`` in the interpreter and says what float16 harms.

    Positions and times, which reach arithmetic of floats, are also tried at the ends of what they
    may be. What ``findings`` has of the same line and rule is not repeated.

    Args:
        model: the package, whole.
        prepared: what it was lowered from.
        program: the same before, with example inputs.
        findings: takes what is found.

    Returns:
        Notes on what could not be tried.
    """
    original = _original(program)
    survey = Survey(model, sources_of(model, prepared).lookup, with_ranges=False)
    notes = []
    for call in _calls(original):
        try:
            survey.run(call)
        except ExecutionError as error:
            notes.append(f"not run in float16 on {call.words}: {error.message}")
            if call.words == _EXAMPLE:
                return tuple(notes)
    for found in survey.findings.values():
        _add(found, findings)
    if not any(found.rule.startswith("fp16-") for found in survey.findings.values()):
        _constants(survey, original, findings)
    return tuple(notes)


def takes_positions(program: ExportedProgram) -> bool:
    """Whether whole numbers that may be larger than in the example reach arithmetic of floats."""
    return program.example_inputs is not None and bool(_positions(_original(program)))


def _original(program: ExportedProgram) -> Original:
    leaves = tuple(
        leaf.detach() if isinstance(leaf, Tensor) else leaf
        for leaf in tree_leaves(program.example_inputs)
    )
    return Original(program, None, None, (), leaves)


def _positions(original: Original) -> dict[str, Span]:
    found = spans(original.program, original.inputs(), {})
    return {name: span for name, span in found.items() if is_position(original.program, name)}


def _calls(original: Original) -> Iterator[InputCall]:
    example = original.inputs()
    yield InputCall(example, _EXAMPLE)
    yield from end_calls(example, _positions(original))


def _add(found: RangeFinding, findings: Findings) -> None:
    place = Source(found.source.module, found.source.line)
    if place.line and place in findings.places(found.rule):
        return
    on = "" if found.call == _EXAMPLE else f", on {found.call}"
    harmless = found.effect <= limits.LOST  # no output shows it on the calls that were made
    findings.add(
        found.rule,
        f"{found.message}{on}",
        op=found.op,
        place=place,
        severity=Severity.NOTE if harmless else None,
        remedy=found.remedy,
    )


def _constants(survey: Survey, original: Original, findings: Findings) -> None:
    """What rounding the constants alone does; both runs of a survey have them rounded."""
    inputs = survey.fed(original.inputs())
    results: Mapping[str, object] = survey.model.run(inputs, survey.model.make_state())
    wanted = original.results()[1]
    found = returned(survey.model, original.program, results)
    worst = max(map(rel_l2, found, wanted), default=0.0)
    if worst > limits.LOST:
        findings.add(
            LOST,
            f"outputs are off by {worst:.2g} of their size by the rounding of constants alone",
            severity=Severity.WRONG,
        )
