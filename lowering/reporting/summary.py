"""What a reader should know first: facts and sentences, shared by every format."""

from __future__ import annotations

from dataclasses import dataclass

from lowering.ablation.result import Ablation
from lowering.reporting.result import Report
from lowering.verification import Verification

# How a figure came about; every figure of a report carries one of them.
PREDICTED, MEASURED, COUNTED = "predicted", "measured", "counted"


@dataclass(frozen=True)
class Fact:
    """One figure of the summary.

    Attributes:
        label: what it is of.
        value: the figure with its unit.
        note: what to read it with.
        kind: ``PREDICTED``, ``MEASURED`` or ``COUNTED``.
        tone: ``good``, ``bad`` or ``""``.
    """

    label: str
    value: str
    note: str
    kind: str
    tone: str = ""


def facts(report: Report) -> list[Fact]:
    """The summary's figures, most telling first."""
    plan = report.plan
    share = plan.ane_share
    on_ane = sum(op.device == "ane" for op in plan.ops)
    latency = plan.latency_ms
    found = [
        Fact(
            "on the Neural Engine",
            f"{share.ops:.1%}",
            f"{on_ane:,} of {count_of(len(plan.ops), 'operator')}, {share.cost:.1%} of the price",
            PREDICTED,
            "good" if share.ops >= 0.95 else "bad" if share.ops < 0.5 else "",
        ),
        Fact(
            f"time on {plan.target}",
            "unknown" if latency is None else f"{latency.ms:.2f} ms",
            plan.latency_note.removeprefix("unknown: ")
            if latency is None
            else f"{latency.low:.2f} to {latency.high:.2f} ms",
            PREDICTED,
        ),
        Fact(
            "dispatcher's price",
            f"{plan.dispatch_ms:.2f} ms",
            "what Core ML decides by, not a run time",
            PREDICTED,
        ),
        Fact(
            "switches",
            str(plan.switches),
            f"{count_of(len(plan.segments), 'segment')}; entry and return count",
            PREDICTED,
        ),
    ]
    if report.accuracy is not None:
        accuracy = report.accuracy
        found.append(error_fact(accuracy.outputs, accuracy.worst, "the interpreter"))
    layout = f"{count_of(report.count('transpose'), 'transpose')}, "
    layout += f"{count_of(report.count('reshape'), 'reshape')}, {report.not_rank4} of rank ≠ 4"
    found += [
        Fact("operators", f"{len(plan.ops):,}", layout, COUNTED),
        Fact("package", f"{report.package.bytes / 1e6:.1f} MB", "on disk", COUNTED),
    ]
    return found


def sentences(report: Report) -> list[str]:
    """What the figures come to, and what to do next."""
    lines = [_placement(report)]
    plan = report.plan
    if plan.refusals:
        rule, count = plan.refusals.most_common(1)[0]
        reason = next(op.reason for op in plan.ops if op.reason and op.reason.rule == rule)
        lines.append(f"Most often in the way ({count_of(count, 'operator')}): {reason.sentence}.")
    if report.accuracy is not None:
        lines.append(error_sentence(report.accuracy.outputs, "the interpreter"))
    if report.ablation is not None:
        lines += _passes(report.ablation, plan.target)
    if plan.advice:
        lines.append(f"What would change most: {plan.advice[0].sentence}.")
    return lines


def _placement(report: Report) -> str:
    plan = report.plan
    if not plan.ops:
        return "The program has no operators."
    rest = [op for op in plan.ops if op.device != "ane"]
    where = f"predicted to run on the Neural Engine of an {plan.target}"
    if not rest:
        return f"All {count_of(len(plan.ops), 'operator')} are {where}, without a break."
    if len(rest) == len(plan.ops):
        return f"No operator is {where}."
    stretches = sum(segment.device == "ane" for segment in plan.segments)
    return (
        f"{len(plan.ops) - len(rest):,} of {count_of(len(plan.ops), 'operator')} are {where}, "
        f"in {count_of(stretches, 'stretch', 'es')}; {len(rest):,} stay on the CPU."
    )


def error_fact(outputs: Verification, worst: float, where: str) -> Fact:
    """The ``worst`` relative error of ``outputs``, as run in ``where``."""
    return Fact(
        "error of the worst output",
        f"{worst:.1e}",
        f"in {where}, {'within' if outputs.passed else 'beyond'} what is allowed",
        MEASURED,
        "good" if outputs.passed else "bad",
    )


def error_sentence(outputs: Verification, where: str, what: str = "package") -> str:
    """How far ``what`` is from its original, as run in ``where``."""
    if outputs.error is not None:
        return f"The {what} could not be run to its end: {outputs.error}."
    worst = max(outputs.outputs, key=lambda output: output.rel_l2, default=None)
    if worst is None:
        return f"The {what} has no outputs."
    yardstick = (
        f"; torch's own half precision comes to {worst.yardstick:.1e}" if worst.yardstick else ""
    )
    wrong = outputs.divergence
    culprit = (
        f" The first operator to go wrong is {wrong.op_type} {wrong.op} ({wrong.source}): "
        f"{wrong.reason}."
        if wrong is not None
        else ""
    )
    return (
        f"Run in {where}, output {worst.name!r} is {worst.rel_l2:.1e} from the original's "
        f"(relative L2, {worst.threshold:.1e} allowed{yardstick}).{culprit}"
    )


def _passes(ablation: Ablation, chip: str) -> list[str]:
    """What all passes together are predicted to win."""
    if chip not in ablation.targets:
        return []
    default = ablation.variant(ablation.baseline).figures
    none = ablation.variant("original")
    if default is None or none.figures is None:
        return []
    with_, without = default.on(chip), none.figures.on(chip)
    line = (
        f"With the passes the dispatcher's price is {with_.dispatch_ms:.2f} ms instead of "
        f"{without.dispatch_ms:.2f} ms (predicted)"
    )
    verdict = ablation.difference(none, chip).verdict
    if verdict == "no measurable difference":
        line += "; the predicted times cannot be told apart"
    elif with_.latency_ms is not None and without.latency_ms is not None:
        line += f"; the time {with_.latency_ms:.2f} ms instead of {without.latency_ms:.2f} ms"
    return [line + "."]


def count_of(number: int, noun: str, plural: str = "s") -> str:
    """``1 operator``, ``2 operators``."""
    return f"{number:,} {noun}{'' if number == 1 else plural}"
