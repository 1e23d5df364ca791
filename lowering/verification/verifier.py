"""Does the package compute what the model computes, and if not, where do they part?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from frontend.keras_models import for_inference
from lowering.conversion.metadata import stored_in
from lowering.package.open import MAIN, open_package
from lowering.reference import LoadedModel, ModelLike, Precision, load
from lowering.reference.float_activations import with_float_activations
from lowering.verification import package_values
from lowering.verification.decoded import DecodedWeight, Sources, lost, with_decoded
from lowering.verification.first_look import passes_at_once
from lowering.verification.first_product import FirstProducts
from lowering.verification.image_inputs import with_nearest_images
from lowering.verification.locating import Before, located
from lowering.verification.metrics import AT_LEAST, Agreement, Metric, metric_of
from lowering.verification.original import Original, passes_of
from lowering.verification.package_values import PackageRun, declares_fp16, feed_of
from lowering.verification.parity import Parity, Thresholds, parity
from lowering.verification.result import Verification
from lowering.verification.sides import Sides
from lowering.verification.steps import Session, step_inputs
from lowering.verification.yardstick import Loosening, loosenings, not_run
from passes.base import Pass
from passes.optimized_model import OptimizedModel

# Told of the package's and the original's outputs by name, after each step.
Observer: TypeAlias = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], None]


def verify(
    package: ModelLike,
    against: nn.Module | ExportedProgram | Original,
    inputs: object = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    thresholds: Thresholds | None = None,
    precision: str | Precision = "fp16",
    pipeline: Sequence[Pass] | None = None,
    known_passes: Sequence[type[Pass]] = (),
    dynamic_shapes: object = None,
    locate: bool = True,
    steps: int | Sequence[object] = 1,
    metric: str | Metric | None = None,
    at_least: float = AT_LEAST,
    observe: Observer | None = None,
    function: str = MAIN,
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
        known_passes: classes of your own passes that it may name.
        dynamic_shapes: as for ``capture``, for a package whose sizes are not all fixed.
        locate: on failure, look for the op and the pass at fault.
        steps: how many calls to make one after the other, each side going on from what it wrote,
            or the inputs of each: see :func:`lowering.verification.steps.step_inputs`. A package
            with states starts from what it starts from on a device.
        metric: how far both agree as the task sees it, beside the errors: the name of one, see
            ``lowering.verification.metrics``, or a function of both sides' outputs by name.
        at_least: what its mean over the steps must reach.
        observe: called with the package's and the original's outputs by name, after each step
            that the package ran to its end.
        function: of a package with several, the default one where none is named.

    Returns:
        Errors of each output, and on failure the first diverging op and the pass at fault, in the
        first step that fails. It is true when the package passed.

    Raises:
        VerificationError: package and original do not belong together.
        PipelineTextError: the package names a pass that is not known.
        PackageError, UnknownOpsError: the package cannot be loaded.
        CaptureError: the original cannot be captured; not asked of a module whose outputs agree.
    """
    precision = Precision.of(precision)
    model = load(package, function=function, precision=precision)
    thresholds = thresholds or Thresholds()
    if isinstance(against, nn.Module):
        against = for_inference(against)
    module = None if isinstance(against, OptimizedModel) else against
    changed = model.is_compressed or model.has_integers
    quick = steps == 1 and metric is None and observe is None and not changed
    if quick and isinstance(module, nn.Module):
        passes_of(pipeline, model.metadata, known_passes)
        outputs = passes_at_once(model, module, inputs, kwargs, thresholds)
        if outputs is not None:
            return Verification(outputs, precision.value)
    original = Original.of(
        against,
        inputs,
        kwargs,
        pipeline=pipeline,
        metadata=model.metadata,
        known_passes=known_passes,
        dynamic_shapes=dynamic_shapes,
    )
    plain, decoded = original, tuple[DecodedWeight, ...]()
    shipped = model
    if changed:
        opened = open_package(package)
        original, decoded = with_decoded(original, opened, model.function)
        if model.has_integers:
            package = with_float_activations(opened, model.function)
            model = load(package, function=model.function, precision=precision)
    rounds = [with_nearest_images(model, step) for step in step_inputs(original, steps)]
    measure = None if metric is None else metric_of(metric)
    truth = _Truth(shipped, plain) if changed else None
    comparison = _Comparison(model, original, thresholds, rounds[0].images, measure, truth)
    for step in rounds:
        before = comparison.before(step)
        run = comparison.of(step, observe)
        if run.error is not None or not comparison.passed:
            break
    error = run.error.message if run.error is not None else None
    found = Verification(
        tuple(comparison.worst.values()),
        precision.value,
        error,
        step=comparison.calls,
        steps=len(rounds),
        loosened=tuple(comparison.loosened.values()),
        agreement=comparison.agreement(metric, at_least),
        compression=None if comparison.first is None else lost(decoded, comparison.first),
    )
    if not locate or (found.error is None and comparison.passed):
        return found
    return located(found, package, model, before, run)


class _Truth:
    """What a compressed package and the model as it is say, beside what is compared in their place.

    A task is judged by these.

    Args:
        shipped: the package with all that it has.
        plain: the model with its own weights.
    """

    def __init__(self, shipped: LoadedModel, plain: Original) -> None:
        self._shipped, self._plain = shipped, plain
        self._state = shipped.make_state()
        self._session = Session(plain)

    def of(
        self,
        step: Original,
        names: Sequence[tuple[str, str]],
        compared: LoadedModel,
        found: Mapping[str, Tensor],
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Outputs by name: of the package, which are ``found`` where that is it, and of the model.

        Args:
            step: the inputs.
            names: public name and MIL value of each output.
            compared: the package that ``found`` comes from.
            found: its outputs.
        """
        call = replace(self._plain, leaves=step.leaves, images=step.images)
        expected = self._session.call(call)
        assert expected is not None
        sides = Sides([name for name, _ in names], expected, None, {})
        if compared is self._shipped:
            return dict(found), sides.expected
        run = package_values.run(self._shipped, feed_of(self._shipped, step), self._state)
        return sides.named([run.values.get(value) for _, value in names]), sides.expected


class _Comparison:
    """Both sides, called step after step.

    Attributes:
        calls: how many steps were made.
        worst: of each output and state the parity that takes most of its threshold.
        loosened: places that make the yardstick useless, by name of the node.
        first: of a package that is compressed, what the outputs of the first step come from.
    """

    def __init__(
        self,
        model: LoadedModel,
        original: Original,
        thresholds: Thresholds,
        images: Iterable[str],
        metric: Metric | None,
        truth: _Truth | None = None,
    ) -> None:
        self._truth = truth
        self._model, self._thresholds, self._metric = model, thresholds, metric
        self._judges = original.judges
        self._first = FirstProducts(model, original.program, list(images))
        self._agreed: list[float] = []
        self._half_agreed: list[float] = []
        self._is_fp16 = declares_fp16(model)
        self._exact = Session(original)
        self._half = Session(original, half=True) if self._is_fp16 else None
        self._state = model.make_state()
        self._program = original.program
        self.calls = 0
        self.first: Sources | None = None
        self.worst: dict[str, Parity] = {}
        self.loosened: dict[str, Loosening] = {}

    @property
    def passed(self) -> bool:
        """Whether every output of every step is close enough."""
        return all(item.passed for item in self.worst.values())

    def before(self, step: Original) -> Before:
        """What the next call starts from; the original from the package's own values."""
        states = {name: self._state[name].copy() for name in self._state}
        if not self.calls:
            return Before(step, states)
        signature = self._program.graph_signature
        buffers = dict(zip(signature.buffers, self._program.buffers(), strict=True))
        written = signature.buffers_to_mutate.values()
        tensors = {name: torch.from_numpy(array) for name, array in states.items()}
        values = {
            stored.buffer: stored.value(tensors, buffers[stored.buffer])
            for stored in stored_in(self._model.metadata, written)
            if stored.name in tensors
        }
        return Before(replace(step, buffers=values), states)

    def of(self, step: Original, observe: Observer | None = None) -> PackageRun:
        """Makes one step on both sides, and compares."""
        exact = replace(step, buffers=self._exact.buffers)
        expected = self._exact.call(step)
        assert expected is not None
        half = self._half.call(step) if self._half is not None else None
        run = package_values.run(self._model, feed_of(self._model, step), self._state)
        self.calls += 1
        names = package_values.output_values(self._model, self._program)
        sides = Sides([name for name, _ in names], expected, half, self._judges)
        found = sides.named([run.values.get(value) for _, value in names])
        told, wanted = found, sides.expected
        if self._truth is not None:
            told, wanted = self._truth.of(step, names, self._model, found)
            self.first = self.first or Sources(told, found, sides.expected, wanted)
        if observe is not None and len(told) == len(names):
            observe(told, wanted)
        yardsticks = sides.yardsticks()
        overflowed = self._trace(exact, yardsticks)
        for name, yardstick in zip(sides.expected, yardsticks, strict=True):
            allowed = self._thresholds.allowed(self._is_fp16, yardstick, overflowed)
            loose = self._thresholds.looseness(yardstick, overflowed) if self._is_fp16 else ""
            computed, want = sides.judged(name, found)
            self._note(
                Parity(name, math.inf, math.inf, 0.0, yardstick, allowed, loose)
                if computed is None
                else replace(parity(name, computed, want, allowed, yardstick), loose=loose)
            )
        self._see_first(exact, run)
        if self._metric is not None:
            whole = len(told) == len(names)
            self._agreed.append(float(self._metric(told, wanted)) if whole else 0.0)
            if sides.half is not None:
                self._half_agreed.append(float(self._metric(sides.half, sides.expected)))
        for stored in stored_in(self._model.metadata, self._exact.buffers):
            if stored.name in run.states:
                kept = self._exact.buffers[stored.buffer]
                allowed = self._thresholds.allowed(self._is_fp16, None)
                value = stored.value(run.states, kept)
                self._note(parity(f"state {stored.buffer}", value, kept, allowed))
        return run

    def _see_first(self, step: Original, run: PackageRun) -> None:
        """Compares what the package makes of pictures first, see ``FirstProducts``."""
        allowed = self._thresholds.allowed(self._is_fp16, None)
        for name, (found, want) in self._first.compared(step, run.values).items():
            label = f"picture {name}"
            if found is None:
                self._note(Parity(label, math.inf, math.inf, 0.0, None, allowed))
            else:
                self._note(parity(label, found, want, allowed))

    def agreement(self, metric: str | Metric | None, at_least: float) -> Agreement | None:
        """What the metric says of the steps made; ``None`` without one."""
        if metric is None:
            return None
        name = metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")
        return Agreement(name, tuple(self._agreed), at_least, tuple(self._half_agreed))

    def _trace(self, exact: Original, yardsticks: Sequence[float | None]) -> bool:
        """Notes what makes the yardstick loose, if it is; whether that is an overflow."""
        if not self._is_fp16 or all(map(self._thresholds.is_tight, yardsticks)):
            return False
        limit = self._thresholds.fp16_alone
        places = loosenings(exact, limit / max(self._thresholds.fp16_factor, 1.0))
        if self._half is not None and self._half.failure:
            places = (not_run(self._half.failure), *places)
        overflowed = any(place.cause == "overflow" for place in places)
        if any(self._thresholds.looseness(yardstick, overflowed) for yardstick in yardsticks):
            for place in places:
                self.loosened.setdefault(place.node, place)
        return overflowed

    def _note(self, found: Parity) -> None:
        last = self.worst.get(found.name)
        if last is None or (last.passed and not _share(found) <= _share(last)):
            self.worst[found.name] = found


def _share(item: Parity) -> float:
    return item.rel_l2 / item.threshold if item.threshold else math.inf
