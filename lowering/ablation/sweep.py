"""``ablate``: every variant of every model, measured once for each different program."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from frontend.capture import capture
from frontend.source import source_of
from lowering.ablation.cache import Cache
from lowering.ablation.digest import Digester
from lowering.ablation.engines import Engine, InProcess
from lowering.ablation.result import Ablation, Figures, VariantResult
from lowering.ablation.rewriting import Case, Rewritten, rewritten
from lowering.ablation.tasks import HalfError, Measure, Source
from lowering.ablation.variants import Variant, variants_of
from lowering.ablation.work import Progress, Work
from lowering.composites import Composite
from lowering.errors import CompositeError
from lowering.planner.targets import chip_of, platform_of
from passes.default_pipeline import DEFAULT_PIPELINE
from passes.pipeline import Pass

# Namespaces of operators that torch and this package define.
_KNOWN_EVERYWHERE = ("aten", "prim", "prims", "ane", "higher_order")


@dataclass(frozen=True)
class Model:
    """A model to ablate.

    Attributes:
        name: of the result.
        model: a module or an exported program.
        args: positional example inputs; inferred where ``None``.
        kwargs: keyword example inputs.
        pipeline: the default that variants are made of.
    """

    name: str
    model: nn.Module | ExportedProgram
    args: Any = None
    kwargs: Mapping[str, Any] | None = None
    pipeline: tuple[Pass, ...] = DEFAULT_PIPELINE


def ablate(
    models: Sequence[Model],
    *,
    targets: Sequence[str] = ("M4",),
    deployment_target: str = "iOS17",
    only: Collection[str] = (),
    variants: Callable[[tuple[Pass, ...]], Sequence[Variant]] | None = None,
    composites: Callable[[], Sequence[Composite]] | None = None,
    composites_digest: str = "",
    engine: Engine | None = None,
    cache: Cache | None = None,
    progress: Progress | None = None,
) -> list[Ablation]:
    """What each pass does to each model, *predicted* where it concerns the ANE.

    Variants whose rewritten program is the same are measured once. Finished work is in the cache
    at once: an interrupted sweep goes on where it stopped.

    Args:
        models: what to ablate.
        targets: chips to predict for.
        deployment_target: oldest system of the packages, ``iOS16`` or later.
        only: names of the passes to leave out and to try alone; all by default.
        variants: gives the variants of a pipeline, the default first; ``variants_of`` by default.
        composites: gives the lowerings of custom operators; called in other processes as well.
        composites_digest: changes whenever those lowerings do.
        engine: where the work is done; this process by default.
        cache: finished work; none is kept by default.
        progress: called after each piece of work.

    Returns:
        One ablation for each model.

    Raises:
        CaptureError: a model cannot be captured.
        CompositeError: a custom operator has no lowering.
        TargetError: a chip is not known.
        VariantsError: ``only`` names a pass that is not in a pipeline.
    """
    for target in targets:
        platform_of(target)  # raises for a chip that is not known, before any work
    chips = tuple(chip_of(target) or platform_of(target) for target in targets)

    def chosen(pipeline: tuple[Pass, ...]) -> tuple[Variant, ...]:
        if variants is not None:
            return tuple(variants(pipeline))
        return variants_of(pipeline, deployment_target=deployment_target, only=only)

    with _folder() as folder:
        cases = []
        for number, model in enumerate(models):
            program = capture(model.model, model.args, kwargs=model.kwargs)
            _check_operators(program, composites() if composites is not None else ())
            path = folder / f"{number}.pt2"
            torch.export.save(program, path)
            source = Source(Digester().program(program), str(path), composites, composites_digest)
            cases.append(Case(model.name, source, chosen(model.pipeline)))
        work = Work(engine or InProcess(), cache, progress)
        programs = rewritten(cases, work)
        half = work.results([HalfError(case.source) for case in cases])
        measures = {
            (index, state.variant.name): Measure(
                *(case.source, state.variant.pipeline, state.digest, deployment_target, chips),
                label=f"{case.name}: {state.variant.name}",
            )
            for index, case in enumerate(cases)
            for state in programs[index]
            if not state.failure
        }
        measured = work.results(list(measures.values()))
    return [
        Ablation(
            case.name,
            chips,
            deployment_target,
            case.variants[0].name,
            half[HalfError(case.source).key].get("half_error"),
            tuple(
                _results(
                    programs[index],
                    {n: measured[task.key] for (i, n), task in measures.items() if i == index},
                )
            ),
        )
        for index, case in enumerate(cases)
    ]


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ane-passes-") as folder:
        yield Path(folder)


def _check_operators(program: ExportedProgram, composites: Sequence[Composite]) -> None:
    """Other processes know a custom operator only through the module of its composite."""
    lowered = {composite.op for composite in composites}
    for node in program.graph.nodes:
        namespace = getattr(node.target, "namespace", "aten")
        if namespace not in _KNOWN_EVERYWHERE and node.target not in lowered:
            origin = source_of(node)
            raise CompositeError(
                "The model has a custom operator without a lowering",
                op=str(node.target),
                module=origin.module,
                source=origin.line,
                hint="bind it to MIL with lowering.composite(...), and name the file with "
                "--composites (composites=...)",
            )


def _results(
    states: Sequence[Rewritten], measured: Mapping[str, Mapping[str, Any]]
) -> Iterator[VariantResult]:
    """``measured``: what came of measuring, by name of the variant."""
    first: dict[str, str] = {}
    for state in states:
        variant = state.variant
        found = measured.get(variant.name, {"failure": state.failure})
        failure = found.get("failure", "")
        earlier = None if state.failure else first.setdefault(state.digest, variant.name)
        yield VariantResult(
            variant.name,
            variant.kind,
            tuple(repr(step) for step in variant.pipeline),
            variant.settings,
            state.rewrites,
            state.declined,
            state.seconds,
            None if earlier == variant.name else earlier,
            None if failure else Figures.from_json(found),
            failure,
        )
