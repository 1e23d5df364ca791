"""What the passes of each variant leave of a model, with as few runs of passes as will tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lowering.ablation.tasks import Rewrite, StoredProgram
from lowering.ablation.variants import Variant
from lowering.ablation.work import Work
from passes.base import Pass


@dataclass(frozen=True)
class Case:
    """A captured model and its variants, the default first."""

    name: str
    source: StoredProgram
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Rewritten:
    """What the passes of a variant did.

    Attributes:
        variant: which.
        digest: of the program that they left; ``""`` when they failed.
        rewrites: places rewritten.
        declined: places left alone.
        seconds: time of the passes.
        failure: why they failed, ``""`` when they did not.
    """

    variant: Variant
    digest: str
    rewrites: int = 0
    declined: int = 0
    seconds: float = 0.0
    failure: str = ""


def rewritten(cases: Sequence[Case], work: Work) -> list[list[Rewritten]]:
    """For each case, what became of each of its variants.

    The run of the default tells what its prefixes give, and which passes leave the program as it
    is: a variant without one of those is the default.
    """
    defaults = [_rewrite(case, case.variants[0]) for case in cases]
    runs = work.results(defaults)
    told = [
        {found.variant.name: found for found in _told(case, runs[task.key])}
        for case, task in zip(cases, defaults, strict=True)
    ]
    asked = {
        (index, variant.name): _rewrite(case, variant)
        for index, case in enumerate(cases)
        for variant in case.variants
        if variant.name not in told[index]
    }
    runs |= work.results(list(asked.values()))
    return [
        [
            told[index].get(variant.name)
            or _after(runs[asked[index, variant.name].key], case, variant)
            for variant in case.variants
        ]
        for index, case in enumerate(cases)
    ]


def _rewrite(case: Case, variant: Variant) -> Rewrite:
    return Rewrite(case.source, variant.pipeline, f"{case.name}: passes, {variant.name}")


def _told(case: Case, run: Mapping[str, Any]) -> Iterator[Rewritten]:
    """What the run of the default says of other variants."""
    default = case.variants[0].pipeline
    idle = _idle(run, case.source.digest)

    def effective(pipeline: tuple[Pass, ...]) -> list[Pass]:
        # With other options an idle pass may do something.
        return [step for step in pipeline if step.name not in idle or step not in default]

    for variant in case.variants:
        count = len(variant.pipeline)
        if "failure" not in run and variant.pipeline == default[:count]:
            yield _after(run, case, variant, count)
        elif idle and effective(variant.pipeline) == effective(default):
            yield _after(run, case, variant)


def _idle(run: Mapping[str, Any], before: str) -> set[str]:
    """Names of passes that left the program as it was wherever they stand."""
    idle: set[str] = set()
    busy: set[str] = set()
    for step in run.get("steps", ()):
        (idle if step["digest"] == before else busy).add(step["name"])
        before = step["digest"]
    return idle - busy


def _after(
    run: Mapping[str, Any], case: Case, variant: Variant, count: int | None = None
) -> Rewritten:
    """After the first ``count`` passes of a run, all by default."""
    if "failure" in run:
        return Rewritten(variant, "", failure=run["failure"])
    steps = run["steps"][:count]
    return Rewritten(
        variant,
        steps[-1]["digest"] if steps else case.source.digest,
        sum(step["rewrites"] for step in steps),
        sum(step["declined"] for step in steps),
        sum(step["seconds"] for step in steps),
    )
