"""``ladder``: what each rung makes of a package, in bytes, error, task metric, price and time."""

from __future__ import annotations

import gc
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn
from torch.export import ExportedProgram

from frontend.errors import InputError
from lowering.ablation.result import Predicted
from lowering.compression.budget import Budget, budget_of
from lowering.compression.compressing import compress
from lowering.compression.ladder_result import Ladder, Level
from lowering.compression.rungs import Rung, rung_of
from lowering.errors import RungTargetError
from lowering.package.folder import SUFFIX, stored_bytes
from lowering.package.saving import copy_package, package_path
from lowering.planner.placement import plan
from lowering.reference import load
from lowering.verification import package_values
from lowering.verification.image_inputs import with_nearest_images
from lowering.verification.metrics import Metric, metric_of
from lowering.verification.original import Original
from lowering.verification.parity import rel_l2

# From the largest to the smallest; those that a package's version lacks are said to be.
RUNGS = ("int8", "pal6", "pal4-grouped", "pal4", "int4-block", "pal3", "pal2", "sparse", "joint")
# What the package itself is called among its rungs.
AS_IT_WAS = "as it was"


def ladder(
    package: str | os.PathLike[str],
    model: nn.Module | ExportedProgram | Original,
    inputs: object = None,
    kwargs: Mapping[str, object] | None = None,
    *,
    samples: Sequence[object] = (),
    rungs: Sequence[str | Rung] = RUNGS,
    metric: str | Metric | None = "cosine",
    budget: str | int | Budget | None = None,
    out: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    chip: str = "M4",
    dynamic_shapes: object = None,
) -> Ladder:
    """Compress a package to every rung, and compare what they cost.

    Errors are of the package's outputs against the model's, in the interpreter. Prices and times
    are *predicted*. With a ``budget`` a rung is chosen, and its package written to ``out``.

    Args:
        package: path of a ``.mlpackage`` that is not compressed.
        model: what it was made from.
        inputs: positional inputs, as for ``verify``; the example inputs of a program by default.
        kwargs: keyword inputs.
        samples: further inputs, each positional ones or a mapping by name; figures are of all.
        rungs: names, see ``lowering.compression.rungs``.
        metric: how far both agree as the task sees it, see ``verify``; ``None`` for none.
        budget: ``"12MB"`` or a number of bytes: the best within it; ``"error=0.05"`` or
            ``"metric=0.99"``: the smallest within it.
        out: where the package of the chosen rung goes.
        folder: an existing folder that keeps the package of every rung, as ``RUNG.mlpackage``.
        chip: to predict for.
        dynamic_shapes: as for ``capture``.

    Raises:
        InputError: a rung or budget is unknown, no rung is within the budget, or the package
            cannot be compressed.
        SaveError: ``out`` or ``folder`` cannot be written.
        VerificationError: package and model do not belong together.
    """
    wanted = tuple(map(rung_of, rungs))
    allowed = None if budget is None else budget_of(budget)
    if out is not None and allowed is None:
        raise InputError(
            "which rung is to be written is not said",
            expected="a budget, such as 12MB or error=0.05",
            hint="give a budget, or write one rung with compress",
        )
    target = None if out is None else package_path(out)
    judge = _Judge(model, inputs, kwargs, samples, metric, dynamic_shapes, package)
    source = Path(package).expanduser()
    with tempfile.TemporaryDirectory(dir=None if target is None else target.parent) as scratch:
        kept = Path(scratch if folder is None else folder)
        levels = [judge.level(AS_IT_WAS, source, chip)]
        for rung in wanted:
            levels.append(_level(judge, source, rung, kept, chip))
        name = metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")
        found = Ladder(str(source), chip, "" if metric is None else name, tuple(levels))
        if allowed is None:
            return found
        chosen = allowed.choose(found.levels)
        if target is not None:
            made = kept / f"{chosen.name}{SUFFIX}"
            copy_package(source if chosen.name == AS_IT_WAS else made, target)
    return found.with_choice(chosen.name, None if target is None else str(target), str(allowed))


def _level(judge: _Judge, source: Path, rung: Rung, folder: Path, chip: str) -> Level:
    try:
        small = compress(source, rung, folder / f"{rung.name}{SUFFIX}")
    except RungTargetError as error:
        return Level(rung.name, refused=error.message)
    gc.collect()  # what held the weights is in cycles
    return judge.level(rung.name, small.package, chip, small.warnings)


class _Judge:
    """The model's outputs on every input, and how a package's compare with them."""

    def __init__(
        self,
        model: nn.Module | ExportedProgram | Original,
        inputs: object,
        kwargs: Mapping[str, object] | None,
        samples: Sequence[object],
        metric: str | Metric | None,
        dynamic_shapes: object,
        package: str | os.PathLike[str],
    ) -> None:
        self._metric = None if metric is None else metric_of(metric)
        # The passes change no output, and the captured program needs no copy of the weights.
        first = Original.of(model, inputs, kwargs, pipeline=(), dynamic_shapes=dynamic_shapes)
        first = replace(first, module=None)
        self._calls = [first, *(first.called(sample) for sample in samples)]
        self._expected: list[list[Tensor]] = [call.expected()[1] for call in self._calls]

    def level(self, name: str, package: Path, chip: str, warnings: Sequence[str] = ()) -> Level:
        """The figures of one package."""
        squares: dict[str, float] = {}
        agreed: list[float] = []
        loaded = load(package)
        for call, expected in zip(self._calls, self._expected, strict=True):
            call = with_nearest_images(loaded, call)
            names = [n for n, _ in package_values.output_values(loaded, call.program)]
            results = loaded(package_values.feed_of(loaded, call), loaded.make_state())
            values = package_values.returned(loaded, call.program, results)
            found = {
                n: value.float().reshape(want.shape) if value.is_floating_point() else value
                for n, value, want in zip(names, values, expected, strict=True)
            }
            wanted = dict(zip(names, expected, strict=True))
            for n in names:
                squares[n] = squares.get(n, 0.0) + rel_l2(found[n], wanted[n]) ** 2
            if self._metric is not None:
                agreed.append(float(self._metric(found, wanted)))
        del loaded
        gc.collect()  # a program's constants are held in cycles, and the next one is as large
        error = max((math.sqrt(total / len(self._calls)) for total in squares.values()), default=0)
        return Level(
            name,
            bytes=stored_bytes(package),
            error=error,
            metric=math.fsum(agreed) / len(agreed) if agreed else None,
            predicted=Predicted.of(plan(package, chip=chip)),
            warnings=tuple(warnings),
        )
