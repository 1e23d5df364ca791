"""From a call that differs to the operator and the pass at fault."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from lowering.reference import LoadedModel, ModelLike, Precision, load
from lowering.verification import package_values
from lowering.verification.divergence import PackageWalk
from lowering.verification.original import Original
from lowering.verification.package_values import PackageRun, declares_fp16, feed_of
from lowering.verification.parity import Thresholds
from lowering.verification.pass_bisect import faulty_pass
from lowering.verification.result import Verification


@dataclass(frozen=True)
class Before:
    """One step before it is made: the original as it was, and the states of the package."""

    original: Original
    states: Mapping[str, np.ndarray]


def located(
    found: Verification,
    package: ModelLike,
    model: LoadedModel,
    before: Before,
    run: PackageRun,
) -> Verification:
    """``found`` with the operator and the pass at fault, as far as they can be told.

    Args:
        found: a verification that did not pass.
        package, model: what was run; ``model`` is one function of it.
        before: the call that failed.
        run: that call with all its values.
    """
    original = before.original
    threshold = min((output.threshold for output in found.outputs), default=Thresholds.fp32)
    pass_fault = faulty_pass(original, threshold)
    exact, exact_run = model, run
    if model.precision is not Precision.FP32:
        exact = load(package, function=model.function, precision=Precision.FP32)
        state = exact.make_state()
        for name in state:
            state[name] = before.states[name]
        exact_run = package_values.run(exact, feed_of(exact, original), state)
    rounded = declares_fp16(model)
    walk = PackageWalk(original, exact_run, rounded, threshold, exact)
    kind = "logic"
    if not walk.is_wrong() and pass_fault is None:
        kind = "rounding"
        walk = PackageWalk(original, run, rounded, threshold, model)
    divergence = walk.first() if walk.is_wrong() else None
    return replace(found, divergence=divergence, pass_fault=pass_fault, kind=kind)
