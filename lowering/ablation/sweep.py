"""``ablate``: every variant of every model, measured once for each different program."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from frontend.capturing import capture
from frontend.model_call import ModelCall
from frontend.source import source_of
from lowering.ablation.cache import Cache
from lowering.ablation.digest import Digester
from lowering.ablation.engines import Engine, InProcess
from lowering.ablation.result import Ablation, Figures, VariantResult
from lowering.ablation.rewriting import Case, Rewritten, rewritten
from lowering.ablation.tasks import HalfError, Measure, StoredProgram
from lowering.ablation.variants import Variant, variants_of
from lowering.ablation.work import Progress, Work
from lowering.conversion.composites import Composite
from lowering.errors import CompositeError
from lowering.planner.targets import chip_of, platform_of
from passes.base import Pass
from passes.default_pipeline import DEFAULT_PIPELINE
from passes.pipeline_text import to_text

# Namespaces of operators that torch and this package define.
_KNOWN_EVERYWHERE = ("aten", "prim", "prims", "ane", "higher_order")


@dataclass(frozen=True)
class Settings:
    """How a sweep measures.

    Attributes:
        chips: to predict for.
        deployment_target: oldest system of the packages, ``iOS16`` or later.
        composites: gives the lowerings of custom operators; called in other processes as well.
        composites_digest: changes whenever those lowerings do.
        engine: where the work is done; this process by default.
        cache: finished work; none is kept by default.
        progress: called after each piece of work.
        metric: name of one by which each package is judged as well, see ``verify``.
    """

    chips: Sequence[str] = ("M4",)
    deployment_target: str = "iOS17"
    composites: Callable[[], Sequence[Composite]] | None = None
    composites_digest: str = ""
    engine: Engine | None = None
    cache: Cache | None = None
    progress: Progress | None = None
    metric: str | None = None

    @property
    def chip_names(self) -> tuple[str, ...]:
        """``chips`` as they are spelled in results.

        Raises:
            UnknownChipError: one is not known.
        """
        return tuple(chip_of(target) or platform_of(target) for target in self.chips)


def ablate_models(
    models: Sequence[ModelCall],
    settings: Settings | None = None,
    *,
    pipeline: Sequence[Pass] = DEFAULT_PIPELINE,
    only: Collection[str] = (),
) -> list[Ablation]:
    """What each pass does to each model, *predicted* where it concerns the ANE.

    Variants whose rewritten program is the same are measured once. Finished work is in the cache
    at once: an interrupted sweep goes on where it stopped.

    Args:
        models: what to ablate.
        settings: how; by default for an M4 and iOS 17, here and without a cache.
        pipeline: the passes that variants are made of.
        only: names of the passes to leave out and to try alone; all by default.

    Returns:
        One ablation for each model.

    Raises:
        CaptureError: a model cannot be captured.
        CompositeError: a custom operator has no lowering.
        UnknownChipError: a chip is not known.
        VariantsError: ``only`` names a pass that is not in ``pipeline``.
    """
    settings = settings or Settings()
    target = settings.deployment_target
    variants = variants_of(pipeline, deployment_target=target, only=only)
    with Sweep(models, settings) as sweep:
        return sweep.run([variants] * len(models))


class Sweep:
    """Captured models, and what was found of their variants so far; a context manager."""

    def __init__(self, models: Sequence[ModelCall], settings: Settings) -> None:
        self.models = tuple(models)
        self.settings = settings
        self.chips = settings.chip_names  # raises for a chip that is not known, before any work
        self._work = Work(settings.engine or InProcess(), settings.cache, settings.progress)
        self._sources: list[StoredProgram] = []
        self.programs: list[ExportedProgram] = []  # of the models, as captured

    def __enter__(self) -> Sweep:
        self._folder = tempfile.TemporaryDirectory(prefix="ane-passes-")
        try:
            for number, model in enumerate(self.models):
                path = Path(self._folder.name) / f"{number}.pt2"
                self._sources.append(self._source(model, path))
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()

    def run(self, variants: Sequence[Sequence[Variant]]) -> list[Ablation]:
        """One ablation for each model, of these variants of it, the default first."""
        settings = self.settings
        cases = [
            Case(model.name, source, tuple(own))
            for model, source, own in zip(self.models, self._sources, variants, strict=True)
        ]
        programs = rewritten(cases, self._work)
        half = self._work.results([HalfError(case.source) for case in cases])
        measures = [
            {
                state.variant.name: Measure(
                    *(case.source, state.variant.pipeline, state.digest),
                    *(settings.deployment_target, self.chips),
                    label=f"{case.name}: {state.variant.name}",
                    metric=settings.metric,
                )
                for state in states
                if not state.failure
            }
            for case, states in zip(cases, programs, strict=True)
        ]
        measured = self._work.results([task for own in measures for task in own.values()])
        return [
            Ablation(
                case.name,
                self.chips,
                settings.deployment_target,
                case.variants[0].name,
                half[HalfError(case.source).key].get("half_error"),
                tuple(_results(states, {n: measured[task.key] for n, task in own.items()})),
            )
            for case, states, own in zip(cases, programs, measures, strict=True)
        ]

    def _source(self, model: ModelCall, path: Path) -> StoredProgram:
        program = capture(
            model.model, model.args, kwargs=model.kwargs, dynamic_shapes=model.dynamic_shapes
        )
        composites = self.settings.composites
        _check_operators(program, composites() if composites is not None else ())
        torch.export.save(program, path)
        self.programs.append(program)
        digest = Digester().program(program)
        return StoredProgram(digest, str(path), composites, self.settings.composites_digest)


def _check_operators(program: ExportedProgram, composites: Sequence[Composite]) -> None:
    """Other processes know a custom operator only through the module of its composite."""
    lowered = {composite.op for composite in composites}
    for node in program.graph.nodes:
        namespace = getattr(node.target, "namespace", "aten")
        if namespace not in _KNOWN_EVERYWHERE and node.target not in lowered:
            origin = source_of(node)
            raise CompositeError(
                "the model has a custom operator without a lowering",
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
            name=variant.name,
            kind=variant.kind,
            passes=tuple(to_text(variant.pipeline)),
            settings=variant.settings,
            rewrites=state.rewrites,
            declined=state.declined,
            optimize_seconds=state.seconds,
            same_as=None if earlier == variant.name else earlier,
            figures=None if failure else Figures.from_json(found),
            failure=failure,
        )
