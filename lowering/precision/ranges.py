"""``lowering.ranges``: the ranges of all values, and what float16 does to them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import coremltools as ct
from coremltools.converters.mil.mil import Operation
from torch import nn
from torch.export import ExportedProgram

import passes
from lowering.contract.folder import ModelFolder, open_folder
from lowering.conversion.composites import Composite
from lowering.conversion.converter import lower, lowering_table, program_of
from lowering.conversion.metadata import sources_of
from lowering.conversion.pinned import PinnedPrecision
from lowering.conversion.prepare import prepare
from lowering.conversion.unsupported import unsupported_ops
from lowering.errors import UnsupportedOpsError
from lowering.precision.beside import as_declared
from lowering.precision.ends import InputCall, check_stated, end_calls, spans
from lowering.precision.result import Ranges
from lowering.precision.survey import Survey
from lowering.reference import ExecutionError, LoadedModel
from lowering.reference.mixed import MixedProgram
from lowering.verification.original import Original
from passes.base import Pass
from passes.default_pipeline import DEFAULT_PIPELINE
from passes.optimized_model import OptimizedModel


class _Watched(PinnedPrecision):
    """Leaves every operator in float32, and notes which would be float16.

    Args:
        chosen: the user's own op selector.
    """

    def __init__(self, chosen: Callable[[Operation], bool] | None) -> None:
        super().__init__(None)
        self._chosen = chosen

    def _is_cast(self, op: Operation) -> bool:
        return (self._chosen is None or self._chosen(op)) and super()._is_cast(op)

    def half_of(self, model: LoadedModel) -> LoadedModel:
        """``model`` with all in float16 that would be."""
        mixed = MixedProgram(model, self.castable)
        halves = mixed.with_halves(mixed.names)
        # With an op selector of the user's a package takes and returns float32.
        return as_declared(halves) if self._chosen is None else halves


def ranges(
    model: nn.Module | ExportedProgram | ModelFolder | str | os.PathLike[str],
    calibration_inputs: object = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: object = None,
    input_ranges: Mapping[str, tuple[float, float]] | None = None,
    composites: Sequence[Composite] = (),
    pipeline: Sequence[Pass] = DEFAULT_PIPELINE,
    minimum_deployment_target: ct.target = ct.target.iOS17,
    op_selector: Callable[[Operation], bool] | None = None,
) -> Ranges:
    """The smallest and largest of every value of the lowered program, and what float16 harms.

    The model is rewritten and lowered in float32 and run in the interpreter, each operator beside
    its float16 form. An operator is told of where its result overflows, vanishes or loses digits
    by itself, whatever came before it. Inputs of whole numbers are also tried at the ends of what
    they may be: of the table they index, of ``input_ranges``, or else up to 4,095.

    Args:
        model: any ``nn.Module``, an ``ExportedProgram``, an ``OptimizedModel``, or a folder that
            :func:`lowering.export` wrote, whose contract may have ranges of inputs.
        calibration_inputs: positional inputs of one call, a mapping by name, or a list of
            either. By default the example inputs.
        kwargs: keyword inputs of the first call.
        dynamic_shapes: as for ``torch.export.export``.
        input_ranges: smallest and largest value of inputs, by name.
        composites: lowerings for custom operators.
        pipeline: the passes; none of them for an ``OptimizedModel``.
        minimum_deployment_target: as for ``convert``.
        op_selector: which operators are float16 in the package, as for
            ``ct.transform.FP16ComputePrecision``; by default all that can be.

    Raises:
        CaptureError: the model cannot be captured.
        InputError: a range is of no input, or the wrong way round.
        UnsupportedOpsError, LoweringError: it cannot be lowered.
        VerificationError: inputs do not fit.
    """
    name, stated = type(model).__name__, dict(input_ranges or {})
    first, *further = _calls(calibration_inputs)
    if not isinstance(model, nn.Module | ExportedProgram):
        folder = model if isinstance(model, ModelFolder) else open_folder(model)
        name, stated = folder.contract.name, {**folder.contract.ranges, **stated}
        model, kwargs = folder.composed(), folder.example()
    if isinstance(model, OptimizedModel):
        original, optimized = Original.of(model, first, kwargs), model
    else:
        if isinstance(first, Mapping) and isinstance(model, nn.Module):
            first, kwargs = None, first
        optimized = passes.optimize_for_ane(
            model, first, kwargs=kwargs, dynamic_shapes=dynamic_shapes, pipeline=pipeline
        )
        given = isinstance(model, ExportedProgram)
        original = Original.of(optimized, first, kwargs) if given else Original.of(optimized)
    check_stated(stated, original.inputs())
    survey = _survey(optimized, composites, minimum_deployment_target, op_selector)
    words: list[str] = []
    notes: list[str] = []
    outputs: dict[str, float] = {}
    for step in _steps(original, further, stated):
        try:
            errors = survey.run(step)
        except ExecutionError as error:
            notes.append(f"{step.words} could not be tried: {error.message}")
            continue
        words.append(step.words)
        for output, error_there in errors.items():
            outputs[output] = max(error_there, outputs.get(output, 0.0))
    return Ranges(
        name,
        tuple(survey.values.values()),
        tuple(survey.findings.values()),
        tuple(words),
        tuple(notes),
        outputs,
    )


def _survey(
    model: OptimizedModel,
    composites: Sequence[Composite],
    target: ct.target,
    op_selector: Callable[[Operation], bool] | None,
) -> Survey:
    """The model, lowered in float32 and ready to run."""
    table = lowering_table(composites)
    prepared = prepare(program_of(model), fp16=True)
    missing = unsupported_ops(prepared.program.graph, table)
    if missing:
        raise UnsupportedOpsError(missing)
    watched = _Watched(op_selector)
    mlmodel = lower(
        prepared,
        table,
        compute_precision=watched,
        minimum_deployment_target=max(target, ct.target.iOS18) if prepared.states() else target,
        skip_model_load=True,
    )
    return Survey(
        mlmodel,
        sources_of(mlmodel, prepared).lookup,
        half_of=watched.half_of,
        half_inputs=None if op_selector is None else (),
    )


def _steps(
    original: Original, further: Sequence[object], stated: Mapping[str, tuple[float, float]]
) -> Iterator[InputCall]:
    """What to run on: the calls that were given, then the ends of what inputs may be."""
    example = original.inputs()
    yield InputCall(example, "the example")
    for number, call in enumerate(further, 2):
        yield InputCall(original.called(call).inputs(), f"call {number}")
    yield from end_calls(example, spans(original.program, example, stated))


def _calls(given: object) -> list[object]:
    """The inputs of each call, one at least."""
    return list(given) if isinstance(given, list) and given else [given]
