"""The pieces of work of an ablation: plain values that any process can carry out."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from frontend.errors import AnePassesError
from lowering.ablation.digest import Digester, code_digest, passes_digest, text_digest
from lowering.ablation.measure import figures_of, half_error
from lowering.conversion.composites import Composite
from lowering.verification.original import Original
from passes.base import Pass
from passes.pipeline import run


@dataclass(frozen=True)
class StoredProgram:
    """A captured program on disk, and the composites that lower its custom operators.

    Attributes:
        digest: of the program, see ``Digester``.
        path: the ``.pt2`` file.
        composites: gives the composites; importing what defines them defines the operators.
        composites_digest: of what ``composites`` gives.
    """

    digest: str
    path: str
    composites: Callable[[], Sequence[Composite]] | None = None
    composites_digest: str = ""


@dataclass
class Subject:
    """A loaded source, and what is computed of it once."""

    original: Original
    composites: tuple[Composite, ...]
    _expected: list[torch.Tensor] | None = None

    @property
    def program(self) -> ExportedProgram:
        """The captured program."""
        return self.original.program

    @property
    def expected(self) -> list[torch.Tensor]:
        """Outputs in float32 on the example inputs."""
        if self._expected is None:
            self._expected = self.original.expected()[1]
        return self._expected


class Task(Protocol):
    """One piece of work on one source; its result is plain JSON values.

    Attributes:
        source: what it works on.
        label: for people.
    """

    @property
    def source(self) -> StoredProgram:
        """What it works on."""

    @property
    def label(self) -> str:
        """For people."""

    @property
    def key(self) -> str:
        """Names the result: equal keys, equal results (times aside)."""

    def run(self, subject: Subject) -> dict[str, Any]:
        """Does the work."""


@dataclass(frozen=True)
class Rewrite:
    """Runs the passes and says what each left: ``{"steps": [...]}``, one entry for each pass."""

    source: StoredProgram
    pipeline: tuple[Pass, ...]
    label: str

    @property
    def key(self) -> str:
        """See ``Task``."""
        return text_digest(
            "rewrite", code_digest(), self.source.digest, passes_digest(self.pipeline)
        )

    def run(self, subject: Subject) -> dict[str, Any]:
        """See ``Task``."""
        digester = Digester()
        digests: list[str] = []
        _, reports = run(
            subject.program,
            self.pipeline,
            after_each=lambda _, program: digests.append(digester.program(program)),
        )
        steps = [
            {
                "name": report.name,
                "digest": digest,
                "rewrites": report.rewrites,
                "declined": len(report.declined),
                "seconds": report.seconds,
            }
            for report, digest in zip(reports, digests, strict=True)
        ]
        return {"steps": steps}


@dataclass(frozen=True)
class Measure:
    """Converts a rewritten program, runs it, plans it: ``Figures`` as JSON.

    Attributes:
        pipeline: rewrites the source.
        rewritten: digest of the program that it gives.
        deployment_target: such as ``iOS17``.
        targets: chips.
        metric: name of one by which outputs are judged as well.
    """

    source: StoredProgram
    pipeline: tuple[Pass, ...]
    rewritten: str
    deployment_target: str
    targets: tuple[str, ...]
    label: str
    metric: str | None = None

    @property
    def key(self) -> str:
        """See ``Task``."""
        return text_digest(
            *("measure", code_digest(), self.source.digest, self.rewritten),
            *(self.source.composites_digest, self.deployment_target, *self.targets),
            self.metric or "",
        )

    def run(self, subject: Subject) -> dict[str, Any]:
        """See ``Task``."""
        program = run(subject.program, self.pipeline)[0] if self.pipeline else subject.program
        figures = figures_of(
            program,
            subject.original,
            subject.expected,
            composites=subject.composites,
            deployment_target=self.deployment_target,
            targets=self.targets,
            metric=self.metric,
        )
        return figures.to_json()


@dataclass(frozen=True)
class HalfError:
    """Error of the original in torch's half precision: ``{"half_error": ...}``."""

    source: StoredProgram
    label: str = "half precision in torch"

    @property
    def key(self) -> str:
        """See ``Task``."""
        return text_digest("half_error", code_digest(), self.source.digest)

    def run(self, subject: Subject) -> dict[str, Any]:
        """See ``Task``."""
        return {"half_error": half_error(subject.original, subject.expected)}


# The source that this process worked on last: tasks of one model come one after the other.
_LAST: dict[str, Subject] = {}


def run_task(task: Task, data: bytes | None = None) -> dict[str, Any]:
    """Carries out ``task`` in this process; what the model is at fault for is a result as well.

    One thread computes, so that sums come out alike wherever it runs.

    Args:
        task: what to do.
        data: content of the source's file, where the file itself cannot be read.

    Returns:
        The task's result, or ``{"failure": message}``.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return task.run(_subject(task.source, data))
    except AnePassesError as error:
        return {"failure": str(error)}
    finally:
        torch.set_num_threads(threads)


def _subject(source: StoredProgram, data: bytes | None) -> Subject:
    if source.digest not in _LAST:
        _LAST.clear()
        composites = tuple(source.composites()) if source.composites is not None else ()
        # Written by `Source` of this sweep, from a program that was loaded or captured already.
        program = torch.export.load(source.path if data is None else io.BytesIO(data))
        _LAST[source.digest] = Subject(_original(program), composites)
    return _LAST[source.digest]


def _original(program: ExportedProgram) -> Original:
    leaves = tuple(pytree.tree_leaves(program.example_inputs))
    return Original(program, captured=None, module=None, pipeline=(), leaves=leaves)
