"""Does the package compute what the model computes, and if not, where do they part?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from lowering.conversion.metadata import stored_in
from lowering.reference import LoadedModel, ModelLike, Precision, load
from lowering.verification import package_values
from lowering.verification.divergence import Walk
from lowering.verification.image_inputs import with_nearest_images
from lowering.verification.original import Original
from lowering.verification.package_values import PackageRun, declares_fp16, feed_of
from lowering.verification.parity import Parity, Thresholds, parity, rel_l2
from lowering.verification.pass_bisect import faulty_pass
from lowering.verification.result import Verification
from passes.base import Pass


def verify(
    package: ModelLike,
    against: nn.Module | ExportedProgram | Original,
    inputs: object = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    thresholds: Thresholds | None = None,
    precision: str | Precision = "fp16",
    pipeline: Sequence[Pass] | None = None,
    dynamic_shapes: object = None,
    locate: bool = True,
) -> Verification:
    """Run a package on any OS and hold it against its original.

    Args:
        package: an MLModel, the path of a ``.mlpackage``, or a MIL program.
        against: the module or exported program it was made from (the passes named in the package
            are repeated, so that ops can be compared), the ``OptimizedModel`` that was converted,
            or an :class:`Original`, which saves the work of making one for many packages.
        inputs: positional inputs, as for ``capture``; for programs also a mapping by name. By
            default the example inputs.
        kwargs: keyword inputs.
        thresholds: what is close enough, see :class:`Thresholds`.
        precision: how the package is computed, see :func:`lowering.load`.
        pipeline: the passes the package was made with, if it does not name them.
        dynamic_shapes: as for ``capture``, for a package whose sizes are not all fixed.
        locate: on failure, look for the op and the pass at fault.

    Returns:
        Errors of each output, and on failure the first diverging op and the pass at fault. It is
        true when the package passed.

    Raises:
        VerificationError: package and original do not belong together.
        PackageError, UnknownOpsError: the package cannot be loaded.
        CaptureError: the original cannot be captured.
    """
    precision = Precision.of(precision)
    model = load(package, precision=precision)
    original = Original.of(
        against,
        inputs,
        kwargs,
        pipeline=pipeline,
        metadata=model.metadata,
        dynamic_shapes=dynamic_shapes,
    )
    original = with_nearest_images(model, original)
    feed = feed_of(model, original.inputs())
    run = package_values.run(model, feed)
    outputs = _parities(model, run, original, thresholds or Thresholds())
    error = run.error.message if run.error is not None else None
    found = Verification(tuple(outputs), precision.value, error)
    if found.passed or not locate:
        return found
    return _located(found, package, model, original, feed, run)


def _parities(
    model: LoadedModel, run: PackageRun, original: Original, thresholds: Thresholds
) -> list[Parity]:
    is_fp16 = declares_fp16(model)
    names = [output.name for output in model.program.outputs]
    states, expected = original.expected()
    half = original.in_half() if is_fp16 else None
    package_values.check_outputs(names, expected)
    result = []
    for position, (name, want) in enumerate(zip(names, expected, strict=True)):
        yardstick = rel_l2(half[position], want) if half is not None else None
        allowed = thresholds.allowed(is_fp16, yardstick)
        value = run.values.get(name)
        result.append(
            Parity(name, math.inf, math.inf, 0.0, yardstick, allowed)
            if value is None
            else parity(name, value, want, allowed, yardstick)
        )
    for stored in stored_in(model.metadata, states):
        if stored.name in run.states:
            want = states[stored.buffer]
            allowed = thresholds.allowed(is_fp16, None)
            found = stored.value(run.states, want)
            result.append(parity(f"state {stored.buffer}", found, want, allowed))
    return result


def _located(
    found: Verification,
    package: ModelLike,
    model: LoadedModel,
    original: Original,
    feed: Mapping[str, Any],
    run: PackageRun,
) -> Verification:
    threshold = min((output.threshold for output in found.outputs), default=Thresholds.fp32)
    pass_fault = faulty_pass(original, threshold)
    exact, exact_run = model, run
    if model.precision is not Precision.FP32:
        exact = load(package, precision=Precision.FP32)
        exact_run = package_values.run(exact, feed)
    rounded = declares_fp16(model)
    walk = Walk(exact, original, exact_run, rounded, threshold)
    kind = "logic"
    if not walk.is_wrong() and pass_fault is None:
        kind = "rounding"
        walk = Walk(model, original, run, rounded, threshold)
    divergence = walk.first() if walk.is_wrong() else None
    return Verification(found.outputs, found.precision, found.error, divergence, pass_fault, kind)
