"""A preflight as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from lowering.checking.result import Finding, Preflight
from lowering.checking.rules import Severity

# Places listed for each finding; --json has all.
_PLACES = 3
_STYLES = {
    Severity.FATAL: "bold red",
    Severity.WRONG: "red",
    Severity.OFF_ANE: "yellow",
    Severity.SLOW: "cyan",
    Severity.NOTE: "dim",
}


def preflight_text(found: Preflight) -> Iterator[object]:
    """Everything a terminal shows of ``found``: rich renderables and lines, in order."""
    if found.findings:
        yield findings_table(found.findings)
        yield ""
    yield escape(verdict(found))
    placement = found.placement
    if placement is not None:
        part = "" if placement.complete else " of what can be lowered"
        yield escape(
            f"placement on {placement.target}, predicted: {placement.on_ane} of {placement.ops} "
            f"operators{part} on the ANE"
        )
    yield from (escape(f"note: {note}") for note in found.notes)
    if found.findings:
        yield "ane-passes explain RULE says more of a rule"


def verdict(found: Preflight) -> str:
    """One line: whether it converts, and how many findings of each severity."""
    counts = ", ".join(f"{count} {label}" for label, count in found.counts().items())
    if not found.findings:
        return f"{found.name}: nothing is in the way"
    able = "can be converted" if found.convertible else "cannot be converted as it is"
    return f"{found.name} {able}: {counts}"


def findings_table(findings: tuple[Finding, ...]) -> Table:
    """One row for each finding."""
    table = Table(box=None, pad_edge=False)
    for heading in ("severity", "rule", "×", "operator", "what and where", "automatic; next step"):
        table.add_column(heading, justify="right" if heading == "×" else "left", overflow="fold")
    for finding in findings:
        style = _STYLES[finding.severity]
        table.add_row(
            f"[{style}]{finding.severity.label}[/]",
            finding.rule,
            str(finding.count),
            escape(finding.op.removeprefix("aten.")),
            escape("\n".join((finding.message, *_places(finding)))),
            escape("\n".join(part for part in (finding.automatic, _step(finding)) if part)),
        )
    return table


def _step(finding: Finding) -> str:
    return f"→ {finding.remedy}" if finding.remedy else ""


def _places(finding: Finding) -> list[str]:
    places = [f"at {place}" for place in dict.fromkeys(finding.places)]
    more = len(places) - _PLACES
    return places[:_PLACES] + ([f"and {more} more places"] if more > 0 else [])
