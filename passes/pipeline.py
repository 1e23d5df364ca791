"""Runs passes over a program: order check, edit, checks, report."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

from torch._export.verifier import SpecViolationError
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from frontend.errors import AnePassesError
from frontend.program import Draft
from frontend.source import source_of
from passes.base import Pass
from passes.checks import check_fakes, check_signature
from passes.errors import InvariantError, PassError
from passes.order import check_order
from passes.rewriter import Declined, Rewriter


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


def run(
    program: ExportedProgram,
    pipeline: Sequence[Pass],
    *,
    after_each: Callable[[Pass, ExportedProgram], None] | None = None,
) -> tuple[ExportedProgram, tuple[PassReport, ...]]:
    """Runs ``pipeline`` over ``program``, which stays as it is.

    Args:
        program: a captured program.
        pipeline: the passes, in the order they run.
        after_each: called with each pass and the program it left, for numeric checks, progress
            or dumps.

    Raises:
        OrderError: see ``check_order``.
        InvariantError: a pass broke the program.
        PassError: a pass raised something.
    """
    reports = []
    for step in check_order(pipeline):
        start = time.perf_counter()
        draft = Draft(program)
        rewriter = Rewriter(draft, step)
        try:
            _apply(step, rewriter)
        except GuardOnDataDependentSymNode as error:
            draft = Draft(program)
            rewriter = Rewriter(draft, step)
            rewriter.note(f"left out: it asks for a size that depends on data ({error.cond})")
        before, program = program, _closed(draft, step)
        check_signature(before, program, step)
        check_fakes(rewriter.emitted, step, draft.fake_mode)
        reports.append(
            PassReport(
                name=step.name,
                options=step.options(),
                rewrites=rewriter.rewrites,
                declined=tuple(rewriter.declined),
                notes=tuple(rewriter.notes),
                ops_before=count_ops(before),
                ops_after=count_ops(program),
                bytes_added=weight_bytes(program) - weight_bytes(before),
                seconds=time.perf_counter() - start,
                chooses_form=step.chooses_form,
            )
        )
        if after_each is not None:
            after_each(step, program)
    return program, tuple(reports)


def count_ops(program: ExportedProgram) -> dict[str, int]:
    """Operator name to number of calls."""
    return dict(Counter(str(n.target) for n in program.graph.nodes if n.op == "call_function"))


def weight_bytes(program: ExportedProgram) -> int:
    """Bytes of all parameters, buffers and constants; shared storage counts once."""
    storages = {}
    for tensor in [*program.state_dict.values(), *program.constants.values()]:
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
        frame = traceback.extract_tb(error.__traceback__)[-1]
        node = rewriter.failed_at
        origin = None if node is None else source_of(node)
        raise PassError(
            f"pass {step.name} failed: {type(error).__name__}: {_first_line(error)}",
            op=None if node is None else str(node.target),
            module=None if origin is None else origin.module,
            source=None if origin is None else origin.line,
            found=f"at {PurePath(frame.filename).name}:{frame.lineno} {frame.line}",
            hint=step.advice,
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or ["no message"])[0]


def _closed(draft: Draft, step: Pass) -> ExportedProgram:
    try:
        return draft.close()
    except (RuntimeError, SpecViolationError) as error:
        raise InvariantError(
            f"pass {step.name} left an invalid graph",
            expected="every value defined once, before its users",
            found=_first_line(error),
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
