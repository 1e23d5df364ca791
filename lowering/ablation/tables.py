"""An ablation as text: a table for people, Markdown, and CSV for other programs."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterator, Sequence

from rich.console import JustifyMethod
from rich.markup import escape
from rich.table import Table

from lowering.ablation.result import Ablation, Figures, VariantResult

PREDICTED = (
    "ANE (share of the price), sw (switches), price and latency are predicted, not measured; the "
    "price is the estimate that Core ML's dispatcher decides by, not a run time."
)
_MARKS = {"no measurable difference": "≈", "same program": "=", "unknown": "?"}
LEGEND = (
    "vs default: predicted latency over the default's; ≈ no measurable difference (it lies within "
    "the default's interval), ? no latency is known. error: relative L2 norm of the fp16 package's "
    "error, in the interpreter."
)
# Heading, and the text of one program on one chip.
_Column = tuple[str, Callable[[Figures, str], str]]
_COLUMNS: tuple[_Column, ...] = (
    ("ops", lambda f, _: str(f.mil.ops)),
    ("transp", lambda f, _: str(f.mil.count("transpose"))),
    ("reshape", lambda f, _: str(f.mil.count("reshape"))),
    ("rank≠4", lambda f, _: str(f.mil.not_rank4)),
    ("ANE", lambda f, t: f"{f.on(t).ane_cost:.0%}"),
    ("sw", lambda f, t: str(f.on(t).switches)),
    ("price ms", lambda f, t: f"{f.on(t).dispatch_ms:.3g}"),
    ("latency ms", lambda f, t: f.on(t).latency_text),
    ("error", lambda f, _: f"{f.rel_l2:.1e}"),
)


def headings() -> list[str]:
    """Of the table's columns."""
    return ["variant", *(heading for heading, _ in _COLUMNS), "vs default"]


def rows(ablation: Ablation, target: str) -> Iterator[list[str]]:
    """One row for each different program, and for each variant that could not be measured."""
    for variant in ablation.variants:
        if variant.same_as is not None:
            continue
        if variant.figures is None:
            yield [variant.name, "not measured: " + variant.failure.splitlines()[0]]
            continue
        figures = variant.figures
        cells = [text(figures, target) for _, text in _COLUMNS]
        yield [variant.name, *cells, versus(ablation, variant, target)]


def versus(ablation: Ablation, variant: VariantResult, target: str) -> str:
    """``0.62×``, or a sign for a difference that is none."""
    if variant.name == ablation.baseline:
        return ""
    found = ablation.difference(variant, target)
    if found.verdict in ("faster", "slower"):
        return f"{found.latency_ratio:.2f}×"
    return _MARKS[found.verdict]


def notes(ablation: Ablation) -> Iterator[str]:
    """Which variants gave a program that another gave already."""
    groups: dict[str, list[VariantResult]] = {}
    for variant in ablation.variants:
        if variant.same_as is not None:
            groups.setdefault(variant.same_as, []).append(variant)
    for name, others in groups.items():
        yield f"Same program as {name}: {'; '.join(_grouped(others))}."
    if ablation.half_error is not None:
        yield (
            f"fp16 error of the original itself, run by torch in half precision: "
            f"{ablation.half_error:.1e}."
        )


def _grouped(variants: Sequence[VariantResult]) -> Iterator[str]:
    """Names, with what they have in common said once."""

    def named(kind: str, start: str = "", end: str = "") -> str:
        names = [variant.name for variant in variants if variant.kind == kind]
        return ", ".join(name.removeprefix(start).removesuffix(end) for name in names)

    kinds = [variant.kind for variant in variants]
    if "original" in kinds:
        yield "original"
    if "without" in kinds:
        yield f"without {named('without', 'without ')}"
    if "alone" in kinds:
        yield f"{named('alone', end=' alone')} alone"
    counts = [len(variant.passes) for variant in variants if variant.kind == "prefix"]
    for _, run in itertools.groupby(enumerate(counts), lambda pair: pair[1] - pair[0]):
        numbers = [count for _, count in run]
        yield "first " + (f"{numbers[0]} to " if len(numbers) > 1 else "") + f"{numbers[-1]} passes"
    yield from (variant.name for variant in variants if variant.kind == "form")


def ablation_text(ablation: Ablation) -> Iterator[Table | str]:
    """Tables and sentences for the terminal, in order; strings are markup."""
    for target in ablation.targets:
        yield f"[bold]{escape(ablation.model)}[/bold], {ablation.deployment_target}, on {target}"
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        for heading in headings():
            justify: JustifyMethod = "left" if heading == "variant" else "right"
            table.add_column(heading, justify=justify, no_wrap=True)
        failures = []
        for row in rows(ablation, target):
            if len(row) == 2:
                failures.append(f"{row[0]} {row[1]}")
            else:
                table.add_row(*(escape(cell) for cell in row))
        yield table
        yield from (escape(line) for line in failures)
    yield ""
    yield from (escape(note) for note in notes(ablation))
    yield PREDICTED
    yield LEGEND


def ablation_markdown(ablation: Ablation) -> str:
    """The same in Markdown."""
    lines = []
    for target in ablation.targets:
        heads = headings()
        lines += [f"## {ablation.model}, {ablation.deployment_target}, {target} (predicted)", ""]
        lines.append("| " + " | ".join(heads) + " |")
        lines.append("|" + "---|" * len(heads))
        for row in rows(ablation, target):
            cells = [*row, *[""] * (len(heads) - len(row))]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    lines += [f"- {note}" for note in (*notes(ablation), PREDICTED, LEGEND)]
    return "\n".join(lines)


def ablation_csv(ablations: list[Ablation]) -> str:
    """One row for each model, variant and chip, with every figure; the header names units."""
    text = io.StringIO()
    records = [
        record
        for ablation in ablations
        for variant in ablation.variants
        for record in _records(ablation, variant)
    ]
    fields = list(dict.fromkeys(field for record in records for field in record))
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _records(ablation: Ablation, variant: VariantResult) -> Iterator[dict[str, object]]:
    for target in ablation.targets:
        difference = ablation.difference(variant, target)
        record: dict[str, object] = {
            "model": ablation.model,
            "chip": target,
            "variant": variant.name,
            "kind": variant.kind,
            "same_as": variant.same_as or "",
            "failure": variant.failure,
            "rewrites": variant.rewrites,
            "declined": variant.declined,
            "optimize_seconds": round(variant.optimize_seconds, 3),
            "predicted_verdict": difference.verdict,
        }
        figures = variant.figures
        if figures is not None:
            mil, predicted, observed = figures.mil, figures.on(target), figures.observed
            record |= {
                "ops": mil.ops,
                "transposes": mil.count("transpose"),
                "reshapes": mil.count("reshape"),
                "ops_not_rank4": mil.not_rank4,
                "activation_bytes": mil.activation_bytes,
                "padded_bytes": mil.padded_bytes,
                "largest_bytes": mil.largest_bytes,
                "weight_bytes": figures.weight_bytes,
                "rel_l2": figures.rel_l2,
                "max_abs": figures.max_abs,
                "predicted_ane_ops": predicted.ane_ops,
                "predicted_ane_cost": predicted.ane_cost,
                "predicted_segments": predicted.segments,
                "predicted_switches": predicted.switches,
                "predicted_price_ms": predicted.dispatch_ms,
                "predicted_latency_ms": predicted.latency_ms,
                "predicted_low_ms": predicted.low,
                "predicted_high_ms": predicted.high,
                "observed_convert_seconds": round(observed.convert_seconds, 3),
                "observed_torch_cpu_ms": round(observed.cpu_ms, 3),
                "observed_peak_bytes": observed.peak_bytes,
            }
        yield record
