"""A plan as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from lowering.planner.planned import Comparison
from lowering.planner.result import OpPlan, Plan

# Places listed for each reason; --json has every operator.
_PLACES = 3
_DIFFERENCES = 20
# Terms of the predicted time below this are not listed.
_SHOWN_MS = 0.005


def plan_text(plan: Plan, top: int = 10, comparison: Comparison | None = None) -> Iterator[object]:
    """Everything a terminal shows of ``plan``: rich renderables and lines, in order."""
    yield escape(f"{plan.label} on {plan.target} ({plan.platform}, {plan.compute_units})")
    yield summary_table(plan)
    if plan.refusals:
        yield "\nNot on the ANE, and why"
        yield reasons_table(plan)
    if plan.ops:
        yield f"\nThe {min(top, len(plan.ops))} most expensive operators (dispatcher's price, ms)"
        planned = {} if comparison is None else comparison.planned
        yield operators_table(plan.most_expensive(top), planned)
    if plan.advice:
        yield "\nWhat would change the placement (predicted)"
        yield from (escape(f"  {advice.sentence}") for advice in plan.advice)
    if comparison is not None:
        yield "\nPlanned by Core ML beside predicted"
        yield confusion_table(comparison)
        yield from _comparison_lines(comparison)
    if plan.doubts:
        yield "\nReported elsewhere, and not counted in the plan"
        for doubt in plan.doubts:
            step = f"; {doubt.reason.hint}" if doubt.reason.hint else ""
            yield escape(f"  {doubt}{step}")
    yield from (escape(f"note: {note}") for note in plan.notes)


def summary_table(plan: Plan) -> Table:
    """Shares, segments, switches and times."""
    share = plan.ane_share
    table = Table(box=None, show_header=False, pad_edge=False)
    on_ane = sum(op.device == "ane" for op in plan.ops)
    table.add_row("operators on the ANE", f"{on_ane} of {len(plan.ops)} ({share.ops:.1%})")
    table.add_row("share of the price", f"{share.cost:.1%}")
    table.add_row("segments", _segments(plan))
    table.add_row("switches", f"{plan.switches} (entry and return included)")
    table.add_row(
        "dispatcher's price",
        f"{plan.dispatch_ms:.3f} ms (what Core ML decides placement by, no time)",
    )
    latency = plan.latency_ms
    time = (
        "unknown"
        if latency is None
        else f"{latency.ms:.2f} ms predicted ({latency.low:.2f} to {latency.high:.2f}): "
        + ", ".join(f"{name} {ms:.2f}" for name, ms in latency.terms.items() if ms >= _SHOWN_MS)
    )
    table.add_row("time on the device", time)
    table.add_row("", escape(plan.latency_note))
    return table


def _segments(plan: Plan) -> str:
    shown = [f"{s.device} {s.stop - s.start}" for s in plan.segments[:12]]
    more = len(plan.segments) - len(shown)
    return " → ".join(shown) + (f" → … {more} more" if more > 0 else "")


def reasons_table(plan: Plan) -> Table:
    """One row per rule: how many operators, why, where, and what to do."""
    table = Table(box=None, pad_edge=False)
    for heading in ("ops", "rule", "why", "where", "next step"):
        table.add_column(heading, justify="right" if heading == "ops" else "left")
    for rule, count in plan.refusals.most_common():
        members = [op for op in plan.ops if op.reason is not None and op.reason.rule == rule]
        reason = members[0].reason
        assert reason is not None  # the rule was counted from it
        table.add_row(
            str(count), rule, escape(reason.sentence), escape(_places(members)), escape(reason.hint)
        )
    return table


def _places(ops: Sequence[OpPlan]) -> str:
    places = list(dict.fromkeys(_place(op) for op in ops))
    more = len(places) - _PLACES
    return "; ".join(places[:_PLACES]) + (f"; {more} more" if more > 0 else "")


def _place(op: OpPlan) -> str:
    return str(op.source) if _is_known(op) else f"{op.op_type} {op.name}"


def _is_known(op: OpPlan) -> bool:
    return bool(op.source.module or op.source.line or op.source.passes)


def operators_table(ops: Sequence[OpPlan], planned: Mapping[str, str]) -> Table:
    """Operators with device, prices, layout figures and source; Core ML's plan where known."""
    table = Table(box=None, pad_edge=False)
    headings = ["operator", "type", "predicted", "ane", "cpu", "output", "padding", "set", "from"]
    if planned:
        headings.insert(3, "planned")
    for heading in headings:
        numeric = heading in ("ane", "cpu", "padding", "set")
        table.add_column(heading, justify="right" if numeric else "left")
    for op in ops:
        figures = op.figures
        cells = [
            escape(op.name),
            op.op_type,
            op.device,
            _ms(op.cost_ms.get("ane")),
            _ms(op.cost_ms.get("cpu")),
            "×".join(map(str, figures.shape)),
            f"{figures.padding:.0%}",
            f"{figures.working_set_bytes / 1e6:.2f} MB",
            escape(str(op.source)) if _is_known(op) else "–",
        ]
        if planned:
            cells.insert(3, planned.get(op.name, "?"))
        table.add_row(*cells)
    return table


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def confusion_table(comparison: Comparison) -> Table:
    """Rows: what Core ML planned; columns: what was predicted."""
    predicted = sorted({b for _, b in comparison.placement} | {"ane", "cpu"})
    table = Table(box=None, pad_edge=False)
    table.add_column("planned")
    for device in predicted:
        table.add_column(f"predicted {device}", justify="right")
    for device in sorted({a for a, _ in comparison.placement} | {"ane", "cpu"}):
        counts = (str(comparison.placement.get((device, other), 0)) for other in predicted)
        table.add_row(device, *counts)
    return table


def _comparison_lines(comparison: Comparison) -> Iterator[str]:
    system = ", ".join(comparison.system.values())
    agreement = comparison.agreement
    share = "no operator matched" if agreement is None else f"{agreement:.1%} placed alike"
    yield escape(f"{share}; planned on {system}")
    for entry in comparison.differences[:_DIFFERENCES]:
        because = f": {entry.reason}" if entry.reason else ""
        yield escape(
            f"  {entry.op_type} {entry.name}: planned {entry.planned}, "
            f"predicted {entry.predicted}{because}"
        )
    more = len(comparison.differences) - _DIFFERENCES
    if more > 0:
        yield f"  {more} more, see --json"
    only_predicted, only_planned = comparison.unmatched
    if only_predicted or only_planned:
        yield (
            f"  unmatched: {len(only_predicted)} only in the package, "
            f"{len(only_planned)} only in Core ML's plan"
        )
