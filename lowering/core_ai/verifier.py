"""Holds an ``.aimodel`` against its original, through Apple's own runtime."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from lowering.core_ai.asset import PREFIX, CoreAIModel, read_interface
from lowering.core_ai.locating import AssetCall, located
from lowering.core_ai.runtime import run_calls, starts
from lowering.errors import CoreAIError
from lowering.verification.original import Original, VerificationError
from lowering.verification.parity import Parity, Thresholds, parity, rel_l2
from lowering.verification.result import Verification
from lowering.verification.steps import Session, step_inputs


def verify_core_ai(
    model: CoreAIModel | str | os.PathLike[str],
    against: nn.Module | ExportedProgram | Original,
    inputs: object = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    thresholds: Thresholds | None = None,
    steps: int = 1,
    dynamic_shapes: object = None,
    locate: bool = True,
) -> Verification:
    """Run an asset in Apple's runtime and hold its outputs against the original's.

    Args:
        model: the path of an asset, or what ``convert(..., format="aimodel")`` gave.
        against: an ``OptimizedModel``, an ``nn.Module`` or an ``ExportedProgram``.
        inputs: positional inputs, as for ``capture``; a mapping of names to tensors fits all.
        kwargs: keyword inputs.
        thresholds: what is close enough, as for packages.
        steps: how many calls to make one after the other.
        dynamic_shapes: as for ``capture``.
        locate: on failure, look for the operator and the pass at fault: see
            :mod:`lowering.core_ai.locating`.

    Returns:
        Errors of each output, of the worst of all steps up to the first that failed. It is true
        when the asset passed.

    Raises:
        VerificationError: asset and original do not belong together.
        CoreAIError: Core AI is not installed.
    """
    thresholds = thresholds or Thresholds()
    metadata = model.metadata if isinstance(model, CoreAIModel) else read_interface(Path(model))[1]
    original = Original.of(
        against, inputs, kwargs, metadata=metadata, dynamic_shapes=dynamic_shapes
    )
    is_fp16 = metadata.get(PREFIX + "precision") == "float16"
    rounds = list(step_inputs(original, steps))
    exact, half = Session(original), Session(original, half=True) if is_fp16 else None
    expected, halves = [], []
    for step in rounds:
        expected.append(exact.call(step))
        halves.append(half.call(step) if half is not None else None)
    precision = "float16" if is_fp16 else "float32"
    with tempfile.TemporaryDirectory(prefix="ane-passes-") as folder:
        path = model.save(Path(folder) / "model") if isinstance(model, CoreAIModel) else Path(model)
        feeds = [step.inputs() for step in rounds]
        found = _held(path, feeds, expected, halves, thresholds, precision)
        if found.passed or not locate:
            return found
        before = run_calls(path, feeds[: found.step - 1]).states if found.step > 1 else starts(path)
        return located(found, AssetCall(path, rounds[found.step - 1], before, precision))


def _held(
    path: Path,
    feeds: Sequence[Mapping[str, Tensor]],
    expected: Sequence[Sequence[Tensor] | None],
    halves: Sequence[Sequence[Tensor] | None],
    thresholds: Thresholds,
    precision: str,
) -> Verification:
    """The asset's outputs, step after step, beside the original's."""
    is_fp16 = precision == "float16"
    try:
        ran = run_calls(path, feeds)
    except CoreAIError as error:
        return Verification((), precision, str(error), steps=len(feeds))
    worst: dict[str, Parity] = {}
    for step, (found, wanted, halved) in enumerate(
        zip(ran.outputs, expected, halves, strict=True), 1
    ):
        assert wanted is not None
        if len(found) != len(wanted):
            raise VerificationError(
                "asset and original do not belong together",
                expected=f"{len(wanted)} outputs",
                found=", ".join(found),
            )
        for position, (name, value) in enumerate(found.items()):
            yardstick = None
            if halved is not None:
                yardstick = rel_l2(halved[position], wanted[position])
            allowed = thresholds.allowed(is_fp16, yardstick)
            entry = parity(name, _tensor(value), wanted[position], allowed, yardstick)
            loose = thresholds.looseness(yardstick) if is_fp16 else ""
            entry = replace(entry, loose=loose)
            if name not in worst or entry.rel_l2 > worst[name].rel_l2:
                worst[name] = entry
        result = Verification(tuple(worst.values()), precision, step=step, steps=len(feeds))
        if not result.passed:
            break
    return result


def _tensor(value: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(value))
