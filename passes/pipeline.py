"""Runs passes over a program: order check, edit, checks, report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, Protocol, runtime_checkable

from torch._export.verifier import SpecViolationError
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from frontend.program import Draft
from passes.checks import check_fakes, check_signature
from passes.errors import InvariantError, OrderError
from passes.rewriter import Declined, Rewriter


@runtime_checkable
class Pass(Protocol):
    """A rewrite; ours are frozen dataclasses whose fields are their options."""

    @property
    def name(self) -> str:
        """Of the pass, in reports and in order checks."""

    def apply(self, rw: Rewriter) -> None:
        """Rewrites what it can and declines the rest with a reason."""


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

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {**asdict(self), "declined": [_declined_json(d) for d in self.declined]}


# (earlier, later, why). Checked wherever both stand in a pipeline.
ORDER: tuple[tuple[str, str, str], ...] = (
    ("remove_dropout", "fuse_attention", "a dropout inside attention hides its pattern"),
    ("remove_dropout", "fold_batch_norm", "batch norms must be in inference form"),
    ("canonical_linear", "linear_to_conv1x1", "it makes the linears that are converted there"),
    ("fuse_attention", "split_attention", "attention is recognised before its form is chosen"),
    ("fuse_rms_norm", "rms_norm_form", "norms are recognised before their form is chosen"),
    ("split_attention", "assign_layout", "the layout is chosen for the attention form that runs"),
    ("linear_to_conv1x1", "assign_layout", "the conversions that it inserts are cancelled there"),
    ("conv1d_to_conv2d", "assign_layout", "the conversions that it inserts are cancelled there"),
    ("channel_norm", "assign_layout", "norms must be free to change their axis"),
    ("rms_norm_form", "assign_layout", "norms must be free to change their axis"),
)


def check_order(pipeline: Sequence[Pass]) -> None:
    """Checks types and order of a pipeline.

    Raises:
        OrderError: with every violation, each with its reason.
    """
    wrong = [repr(p) for p in pipeline if not isinstance(p, Pass) or isinstance(p, type)]
    if wrong:
        raise OrderError(
            "a pipeline holds something that is no pass",
            expected="pass values, such as LinearToConv1x1()",
            found=", ".join(wrong),
        )
    places = {p.name: i for i, p in reversed(list(enumerate(pipeline)))}
    violations = [
        f"{earlier} must come before {later}: {why}"
        for earlier, later, why in ORDER
        if earlier in places and later in places and places[earlier] > places[later]
    ]
    if violations:
        raise OrderError(
            "the pipeline's order cannot work",
            found="; ".join(violations),
            expected="the order of passes.DEFAULT_PIPELINE",
        )


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
    """
    check_order(pipeline)
    reports = []
    for step in pipeline:
        start = time.perf_counter()
        draft = Draft(program)
        rewriter = Rewriter(draft, step.name)
        try:
            step.apply(rewriter)
        except GuardOnDataDependentSymNode as error:
            draft = Draft(program)
            rewriter = Rewriter(draft, step.name)
            rewriter.note(f"left out: it asks for a size that depends on data ({error.cond})")
        before, program = program, _closed(draft, step)
        check_signature(before, program, step)
        check_fakes(rewriter.emitted, step.name, draft.fake_mode)
        reports.append(
            PassReport(
                name=step.name,
                options=_options(step),
                rewrites=rewriter.rewrites,
                declined=tuple(rewriter.declined),
                notes=tuple(rewriter.notes),
                ops_before=count_ops(before),
                ops_after=count_ops(program),
                bytes_added=weight_bytes(program) - weight_bytes(before),
                seconds=time.perf_counter() - start,
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


def _closed(draft: Draft, step: Pass) -> ExportedProgram:
    try:
        return draft.close()
    except (RuntimeError, SpecViolationError) as error:
        raise InvariantError(
            f"pass {step.name} left an invalid graph",
            expected="every value defined once, before its users",
            found=str(error).splitlines()[0],
            hint="report this model; leave the pass out of the pipeline meanwhile",
        ) from error


def _options(step: Pass) -> dict[str, Any]:
    return {f.name: getattr(step, f.name) for f in fields(step)} if is_dataclass(step) else {}


def _declined_json(declined: Declined) -> dict[str, Any]:
    source = declined.source
    return {
        "node": declined.node,
        "op": declined.op,
        "module": source.module,
        "line": source.line,
        "reason": declined.reason,
    }
