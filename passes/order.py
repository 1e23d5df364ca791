"""Which pipelines can work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from passes.base import Pass
from passes.errors import OrderError
from passes.renamed import name_now


def check_order(pipeline: Iterable[Pass]) -> tuple[Pass, ...]:
    """The passes of a pipeline, their types and order checked.

    Raises:
        OrderError: with every violation, each with its reason.
    """
    if isinstance(pipeline, Pass | str | type) or not isinstance(pipeline, Iterable):
        raise OrderError(
            "a pipeline is a sequence of passes",
            expected="a tuple, such as (LinearToConv1x1(),) for a single pass",
            found=repr(pipeline),
        )
    steps = tuple(pipeline)
    wrong = [repr(step) for step in steps if not isinstance(step, Pass)]
    if wrong:
        raise OrderError(
            "a pipeline holds something that is no pass",
            expected="values of classes derived from passes.Pass, such as LinearToConv1x1()",
            found=", ".join(wrong),
        )
    unnamed = [repr(step) for step in steps if not isinstance(getattr(step, "name", None), str)]
    if unnamed:
        raise OrderError(
            "a pass has no name",
            expected='a class attribute such as name = "linear_to_conv1x1"',
            found=", ".join(unnamed),
        )
    violations = list(dict.fromkeys(_violations(steps)))
    if violations:
        raise OrderError(
            "the pipeline's order cannot work",
            found="; ".join(violations),
            expected="the order of passes.DEFAULT_PIPELINE",
        )
    return steps


def _violations(steps: Sequence[Pass]) -> Iterable[str]:
    """A pass that stands several times must come early enough, or late enough, once."""
    first = {step.name: place for place, step in reversed(list(enumerate(steps)))}
    for step in steps:
        place = first[step.name]
        for earlier, why in _now(step.runs_after).items():
            if first.get(earlier, -1) > place:
                yield f"{earlier} must come before {step.name}: {why}"
        for later, why in _now(step.runs_before).items():
            if place > first.get(later, place):
                yield f"{step.name} must come before {later}: {why}"


def _now(reasons: Mapping[str, str]) -> dict[str, str]:
    return {name_now(name): why for name, why in reasons.items()}


def with_pass(pipeline: Sequence[Pass], step: Pass) -> tuple[Pass, ...]:
    """``pipeline`` and ``step``, where the order that both declare allows it first.

    Right behind the last pass that it must come after; else right before the first pass that
    it must come before; else in front of all.
    """
    places = list(enumerate(pipeline))
    after = [p + 1 for p, known in places if known.name in _now(step.runs_after)]
    after += [p + 1 for p, known in places if step.name in _now(known.runs_before)]
    before = [p for p, known in places if known.name in _now(step.runs_before)]
    before += [p for p, known in places if step.name in _now(known.runs_after)]
    place = max(after) if after else min(before, default=0)
    return (*pipeline[:place], step, *pipeline[place:])
