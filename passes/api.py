"""One call from a model to its ANE-shaped equivalent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from frontend.capturing import capture
from frontend.surroundings import plain_torch
from passes.base import Pass
from passes.default_pipeline import DEFAULT_PIPELINE
from passes.numerics import NumericCheck
from passes.optimized_model import OptimizedModel
from passes.order import check_order
from passes.pipeline import run


def optimize_for_ane(
    model: nn.Module | ExportedProgram,
    example_inputs: object = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: object = None,
    pipeline: Sequence[Pass] = DEFAULT_PIPELINE,
    target: str | None = None,
    deployment_target: object = "iOS17",
    verify: bool = False,
    progress: Callable[[str], None] | None = None,
) -> OptimizedModel:
    """Rewrites a model into the shapes that the Apple Neural Engine prefers.

    Args:
        model: an ``nn.Module`` in any mode, on any device, in float32, float16 or bfloat16, or
            an ``ExportedProgram``. It is left exactly as it was; weights are shared.
        example_inputs: positional inputs, as for ``torch.export.export``; may be left out where
            the model offers its own.
        kwargs: keyword inputs.
        dynamic_shapes: as for ``torch.export.export``.
        pipeline: the passes, in the order they run.
        target: chip, such as ``"M4"``: passes that leave the form open choose it by what is
            *predicted* there. Without, attention is split into heads, and batched where that would
            be too many parts.
        deployment_target: oldest system that will run the package, for ``target``: its name, such
            as ``"iOS18"``, or coremltools' constant.
        verify: run the program after every pass on the example inputs and on random ones of the
            same shapes, and compare with the captured program.
        progress: called with the name of each step when it is done.

    Returns:
        A module with the original's call signature, its ``program`` and the passes' ``reports``.

    Raises:
        CaptureError: the model cannot be captured; see ``frontend.capture``.
        UnknownChipError: ``target`` is no chip that is known.
        OrderError: the passes stand in an order that cannot work.
        InvariantError: a pass broke the program, or ``verify`` found numbers that differ.
    """
    pipeline = check_order(pipeline)
    if target is not None:
        system = str(getattr(deployment_target, "name", deployment_target))
        pipeline = tuple(step.for_target(target, system) for step in pipeline)
    program = capture(model, example_inputs, kwargs=kwargs, dynamic_shapes=dynamic_shapes)
    if progress is not None:
        progress("capture")
    check = NumericCheck(program) if verify else None
    with plain_torch():
        rewritten, reports = run(
            program,
            pipeline,
            after_each=None if check is None else lambda step, left: check(step.name, left),
            progress=progress,
        )
    forward = model.forward if isinstance(model, nn.Module) else None
    return OptimizedModel(rewritten, reports, pipeline, forward, program)
