"""``lowering.check``: all obstacles of a model at once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import coremltools as ct
from torch import nn
from torch.export import ExportedProgram

from frontend.branches import UncheckedPathWarning
from frontend.capturing import LeftOutWarning, call_arguments, capture
from frontend.decoder.probing import takes_cache
from frontend.deprecated import renamed_arguments
from frontend.errors import AnePassesError
from frontend.source import Source
from frontend.tensor_kinds import check_weights
from lowering.checking.eager_scan import EagerFindings, scan_module, scan_run
from lowering.checking.half_run import takes_positions
from lowering.checking.program_scan import scan_program, scan_values
from lowering.checking.result import Findings, PlacementSummary, Preflight
from lowering.checking.rules import Severity
from lowering.checking.suspects import Suspects
from lowering.checking.trial import try_lowering
from lowering.conversion.composites import Composite
from lowering.conversion.converter import lowering_table, program_of
from passes.base import Pass
from passes.default_pipeline import DEFAULT_PIPELINE
from passes.pipeline import PassReport, run


@renamed_arguments(target="chip")
def check(
    model: nn.Module | ExportedProgram,
    example_inputs: object = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: object = None,
    composites: Sequence[Composite] = (),
    pipeline: Sequence[Pass] = DEFAULT_PIPELINE,
    minimum_deployment_target: ct.target = ct.target.iOS17,
    chip: str = "M4",
    trial: bool = True,
) -> Preflight:
    """Everything that is in the way of converting ``model`` and of running it on the ANE.

    Nothing is written. Where the model cannot be captured, one plain run in torch shows its
    other obstacles too.

    Args:
        model: an ``OptimizedModel``, an ``ExportedProgram`` or any ``nn.Module``.
        example_inputs: positional inputs; also run, to see values out of range.
        kwargs: keyword inputs.
        dynamic_shapes: as for ``torch.export.export``.
        composites: lowerings for custom operators.
        pipeline: the passes that will run; none of them for an ``OptimizedModel``.
        minimum_deployment_target: as for ``convert``.
        chip: that the placement is *predicted* for.
        trial: lower the program for trial, and run it in float16 where its operators or values
            make that worth while. Without, lowerings that exist but fail are not found, nothing is
            said about placement, and of float16 what the operators alone show.

    Raises:
        CaptureError: there is nothing to look at: no inputs, no module, no weights.
        UnknownChipError: the chip is not known.
    """
    findings, notes = Findings(), []
    table = lowering_table(composites)
    given = getattr(model, "program", None)
    program = given if isinstance(given, ExportedProgram) else None
    reports: tuple[PassReport, ...] = tuple(getattr(model, "reports", ()))
    if program is None:
        program, reports = _optimized(
            model, example_inputs, kwargs, dynamic_shapes, pipeline, findings, table
        )
    placement: PlacementSummary | None = None
    if program is None:
        notes.append("the model could not be captured: findings come from one run in torch")
    else:
        program = program_of(program)
        has_states = minimum_deployment_target >= ct.target.iOS18
        scan_program(program, findings, lowered=table, states=has_states)
        suspects = Suspects()
        if not scan_values(program, findings, suspects):
            notes.append("the program has no example inputs: values were not looked at")
        _declined(reports, findings)
        if trial:
            placement, more = try_lowering(
                program,
                table,
                findings,
                deployment_target=minimum_deployment_target,
                chip=chip,
                in_half=suspects.found or takes_positions(program),
            )
            notes += more
    return Preflight(
        type(model).__name__, findings.all(), program is not None, placement, tuple(notes)
    )


def _optimized(
    model: Any,
    example_inputs: object,
    kwargs: Mapping[str, Any] | None,
    dynamic_shapes: object,
    pipeline: Sequence[Pass],
    findings: Findings,
    table: Mapping[Any, Any],
) -> tuple[ExportedProgram | None, tuple[PassReport, ...]]:
    """The program after the passes, ``None`` where it does not come to one."""
    eager = EagerFindings()
    if isinstance(model, nn.Module):
        check_weights(model)
        args, keywords = call_arguments(model, example_inputs, kwargs)
        scan_module(model, findings)
        eager = scan_run(model, args, keywords, table)
        findings.take(eager.always)
        if not eager.ran:
            findings.take(eager.uncaptured)
            return None, ()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            captured = capture(model, example_inputs, kwargs=kwargs, dynamic_shapes=dynamic_shapes)
            return run(captured, pipeline)
        except AnePassesError as error:
            if not isinstance(model, nn.Module | ExportedProgram):
                raise  # there is nothing else to look at
            findings.take(eager.uncaptured)
            _failed(error, findings)
            return None, ()
        finally:
            _warned(caught, findings, model)


def _failed(error: AnePassesError, findings: Findings) -> None:
    """The error that ended capture, unless the run in torch has shown its places already."""
    if error.rule and findings.has(error.rule, Severity.FATAL):
        return
    details = error.details
    findings.add(
        error.rule or "pass-failed",
        error.message,
        severity=Severity.FATAL,
        op=details["op"] or "",
        place=Source(details["module"] or "", details["source"] or ""),
        remedy=details["next step"],
    )


def _warned(
    caught: Sequence[warnings.WarningMessage], findings: Findings, model: nn.Module | object
) -> None:
    for entry in caught:
        if issubclass(entry.category, UncheckedPathWarning):
            findings.add("path-assumed-away", str(entry.message))
        elif issubclass(entry.category, LeftOutWarning):
            findings.add("result-left-out", str(entry.message))
            if isinstance(model, nn.Module) and takes_cache(model):
                findings.add(
                    "decoder-without-cache",
                    f"{type(model).__name__} is a decoder, and its cache is left out",
                )


def _declined(reports: Sequence[PassReport], findings: Findings) -> None:
    for report in reports:
        for declined in report.declined:
            findings.add(
                "form-declined" if report.chooses_form else "rewrite-declined",
                f"{report.name}: {declined.reason}",
                op=declined.op,
                place=Source(declined.source.module, declined.source.line),
            )
