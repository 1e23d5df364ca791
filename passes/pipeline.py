"""Runs passes over a program: order check, edit, checks, report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from torch import fx
from torch._export.verifier import SpecViolationError
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from frontend.errors import AnePassesError, first_line, kind_and_line
from frontend.heap import frozen_heap
from frontend.late_code import late_code
from frontend.program import Draft
from frontend.source import raising_line, source_of
from passes.base import Pass
from passes.checks import Interface, check_fakes, check_signature, interface
from passes.errors import InvariantError, PassError
from passes.order import check_order
from passes.rewriter import Declined, Rewriter, has_data_sizes


@dataclass(frozen=True)
class PassReport:
    """What one pass did.

    Attributes:
        name: the pass.
        options: its fields.
        rewrites: places rewritten.
        declined: places left alone, each with its reason.
        notes: sentences the user should read.
        ops_before, ops_after: operator name to count.
        bytes_added: parameter bytes added (negative where some were dropped).
        seconds: wall time.
        chooses_form: see ``Pass``.
    """

    name: str
    options: Mapping[str, Any]
    rewrites: int
    declined: tuple[Declined, ...]
    notes: tuple[str, ...]
    ops_before: Mapping[str, int]
    ops_after: Mapping[str, int]
    bytes_added: int
    seconds: float
    chooses_form: bool = False

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {**asdict(self), "declined": [_declined_json(d) for d in self.declined]}


@dataclass(frozen=True)
class _Standing:
    """What is compared before and after a pass."""

    ops: Mapping[str, int]
    weight_bytes: int
    interface: Interface

    @classmethod
    def of(cls, draft: Draft) -> _Standing:
        return cls(_count_ops(draft.graph), _weight_bytes(draft), interface(draft))


@frozen_heap()
@late_code()
def run(
    program: ExportedProgram,
    pipeline: Sequence[Pass],
    *,
    after_each: Callable[[Pass, ExportedProgram], None] | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[ExportedProgram, tuple[PassReport, ...]]:
    """Runs ``pipeline`` over ``program``, which stays as it is.

    All passes edit one draft; it becomes a program once, at the end, unless each step is asked for.

    Args:
        program: a captured program.
        pipeline: the passes, in the order they run.
        after_each: called with each pass and the program it left, for numeric checks or dumps; a
            pass that changed nothing leaves the program that it got.
        progress: called with the name of each pass when it is done.

    Raises:
        OrderError: see ``check_order``.
        InvariantError: a pass broke the program.
        PassError: a pass raised something.
    """
    # A pass that asks for a size that depends on data stops halfway and is undone.
    closes_each = after_each is not None or has_data_sizes(program.graph)
    given, draft, is_edited = program, Draft(program), False
    after = _Standing.of(draft)
    reports: list[PassReport] = []
    for step in check_order(pipeline):
        start, before = time.perf_counter(), after
        rewriter = Rewriter(draft, step)
        try:
            _apply(step, rewriter)
        except GuardOnDataDependentSymNode as error:
            draft = Draft(program)
            rewriter = Rewriter(draft, step)
            rewriter.note(f"left out: it asks for a size that depends on data ({error.cond})")
        if rewriter.has_edited:
            is_edited = True
            with _named(step):
                draft.tidy()
            after = _Standing.of(draft)
            check_signature(before.interface, after.interface, step)
            check_fakes(rewriter.emitted, step, rewriter.fake_calls)
            if closes_each:
                with _named(step):
                    program = draft.close()
                draft = Draft(program)
        reports.append(_report(step, rewriter, before, after, time.perf_counter() - start))
        if after_each is not None:
            after_each(step, program)
        if progress is not None:
            progress(step.name)
    if not closes_each and is_edited:
        program = _closed(draft, given, pipeline)
    return program, tuple(reports)


def _report(
    step: Pass, rewriter: Rewriter, before: _Standing, after: _Standing, seconds: float
) -> PassReport:
    return PassReport(
        name=step.name,
        options=step.options(),
        rewrites=rewriter.rewrites,
        declined=tuple(rewriter.declined),
        notes=tuple(rewriter.notes),
        ops_before=before.ops,
        ops_after=after.ops,
        bytes_added=after.weight_bytes - before.weight_bytes,
        seconds=seconds,
        chooses_form=step.chooses_form,
    )


def _closed(draft: Draft, program: ExportedProgram, pipeline: Sequence[Pass]) -> ExportedProgram:
    """The draft as a program; where torch refuses it, the error names the pass that is at fault."""
    try:
        return draft.close()
    except (RuntimeError, SpecViolationError):
        run(program, pipeline, after_each=lambda step, left: None)
        raise


def _count_ops(graph: fx.Graph) -> dict[str, int]:
    """Operator name to number of calls."""
    return dict(Counter(str(n.target) for n in graph.nodes if n.op == "call_function"))


def _weight_bytes(draft: Draft) -> int:
    """Bytes of all parameters, buffers and constants; shared storage counts once."""
    storages = {}
    for home in draft.kept():
        for tensor in home.values():
            if hasattr(tensor, "untyped_storage"):
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _apply(step: Pass, rewriter: Rewriter) -> None:
    try:
        step.apply(rewriter)
    except (AnePassesError, GuardOnDataDependentSymNode):
        raise
    except Exception as error:  # whatever the code of a user's pass raises
        node = rewriter.failed_at
        origin = None if node is None else source_of(node)
        raise PassError(
            f"pass {step.name} failed: {kind_and_line(error)}",
            op=None if node is None else str(node.target),
            module=None if origin is None else origin.module,
            source=None if origin is None else origin.line,
            found=f"at {raising_line(error.__traceback__)}",
            hint=step.advice,
        ) from error


@contextmanager
def _named(step: Pass) -> Iterator[None]:
    """Names the pass whose graph torch refuses."""
    try:
        yield
    except (RuntimeError, SpecViolationError) as error:
        raise InvariantError(
            f"pass {step.name} left an invalid graph",
            expected="every value defined once, before its users",
            found=first_line(error),
            hint=step.advice,
        ) from error


def _declined_json(declined: Declined) -> dict[str, Any]:
    source = declined.source
    return {
        "node": declined.node,
        "op": declined.op,
        "module": source.module,
        "line": source.line,
        "reason": declined.reason,
    }
