"""``lowering.ablate`` and ``lowering.tune``: sweeps over one model, as functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from frontend.model_call import ModelCall
from lowering.ablation.result import Ablation
from lowering.ablation.sweep import Settings, ablate_models
from lowering.ablation.tune import By, Tuning, tune_model
from passes.default_pipeline import DEFAULT_PIPELINE
from passes.pipeline import Pass


def ablate(
    model: nn.Module | ExportedProgram,
    example_inputs: object = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: object = None,
    pipeline: Sequence[Pass] = DEFAULT_PIPELINE,
    settings: Settings | None = None,
    only: Collection[str] = (),
) -> Ablation:
    """What each pass does to a model, *predicted* where it concerns the ANE.

    Args:
        model: a module or an exported program.
        example_inputs: positional inputs; inferred where ``None``.
        kwargs: keyword inputs.
        dynamic_shapes: as for ``torch.export.export``.
        pipeline: the passes that variants are made of.
        settings: chips, deployment target, composites, engine, cache and progress; by default for
            an M4 and iOS 17, in this process and without a cache.
        only: names of the passes to leave out and to try alone; all by default.

    Raises:
        CaptureError: the model cannot be captured.
        CompositeError: a custom operator has no lowering.
        UnknownChipError: a chip is not known.
        VariantsError: ``only`` names a pass that is not in the pipeline.
    """
    call = ModelCall(type(model).__name__, model, example_inputs, kwargs or {}, dynamic_shapes)
    (found,) = ablate_models([call], settings, pipeline=pipeline, only=only)
    return found


def tune(
    model: nn.Module | ExportedProgram,
    example_inputs: object = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: object = None,
    pipeline: Sequence[Pass] = DEFAULT_PIPELINE,
    settings: Settings | None = None,
    by: By = "price",
    bound: float | None = None,
    metric: str | None = None,
    at_least: float | None = None,
) -> Tuning:
    """The forms of the passes that are *predicted* to suit a model best on one chip.

    Args:
        model: a module or an exported program.
        example_inputs: positional inputs; inferred where ``None``.
        kwargs: keyword inputs.
        dynamic_shapes: as for ``torch.export.export``.
        pipeline: the passes to start from.
        settings: as for :func:`ablate`; the first of its chips is tuned for.
        by: ``price``, the estimate that Core ML's dispatcher decides by, or ``latency``, the time
            that our model predicts.
        bound: largest relative L2 error of the fp16 package; by default what ``verify`` allows.
        metric: name of one by which variants are judged as well, see ``verify``.
        at_least: what it must reach; 0.99 by default.

    Raises:
        CaptureError, CompositeError, UnknownChipError: as for :func:`ablate`.
        TuneError: no variant can be chosen.
    """
    call = ModelCall(type(model).__name__, model, example_inputs, kwargs or {}, dynamic_shapes)
    if metric is not None:
        settings = replace(settings or Settings(), metric=metric)
    return tune_model(call, settings, pipeline=pipeline, by=by, bound=bound, at_least=at_least)
