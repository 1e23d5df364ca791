"""How well the latency model predicts published measurements, and the order of forms.

    python -m benchmarks.latency            # residuals, models left out, orderings
    python -m benchmarks.latency --json     # the same, machine-readable

Nothing here is measured by us. ``fitted`` is the model on its own rows, ``model left out`` a fit
that saw no row of the same model on the same chip.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from benchmarks import latency_fit
from benchmarks.latency_fit import ROWS
from benchmarks.latency_orderings import NOT_ASKED, judge
from lowering.planner.latency import fitted


def full_report() -> dict[str, Any]:
    """Residuals, errors per chip, rows left out, and the orderings."""
    rows = latency_fit.read_rows()
    report = latency_fit.report(rows)
    spreads = {chip: entry["interval_factor"] for chip, entry in fitted()["chips"].items()}
    judged = judge(latency_fit.fit(rows), spreads.__getitem__)
    return {
        **report,
        "left_out": json.loads(ROWS.read_text("utf-8"))["left_out"],
        "orderings": [
            {
                "id": entry.ordering.id,
                "what": entry.ordering.what,
                "chip": entry.ordering.chip,
                "published": entry.ordering.published,
                "predicted": round(entry.predicted, 3),
                "verdict": entry.verdict,
                "source": entry.ordering.source,
            }
            for entry in judged
        ],
        "orderings_not_asked": dict(NOT_ASKED),
    }


def print_report(report: Mapping[str, Any]) -> None:
    """The figures as text."""
    print(f"{'chip':<8} {'measured':>9} {'fitted':>8} {'model left out':>15}  program")
    for row in report["residuals"]:
        errors = [row[key] / row["measured_ms"] - 1 for key in ("fitted_ms", "new_model_ms")]
        print(
            f"{row['chip']:<8} {row['measured_ms']:>9.2f} {errors[0]:>+8.1%} {errors[1]:>+15.1%}"
            f"  {row['program']}"
        )
    print("\nchip       rows  rms fitted  rms, model left out  interval")
    for chip, entry in report["chips"].items():
        if entry["rows"]:
            print(
                f"{chip:<10} {entry['rows']:>4}  {entry['rms_error']:>10.1%}  "
                f"{entry['rms_error_new_model']:>19.1%}  x/: {entry['interval_factor']:.2f}"
            )
    print("\nordering  chip      published  predicted  verdict  slower against faster")
    for entry in report["orderings"]:
        print(
            f"{entry['id']:<8}  {entry['chip']:<8}  {entry['published']:>9.2f}  "
            f"{entry['predicted']:>9.2f}  {entry['verdict']:<7}  {entry['what']}"
        )
    for name, reason in report["orderings_not_asked"].items():
        print(f"{name:<8}  not asked: {reason}")
    verdicts = Counter(entry["verdict"] for entry in report["orderings"])
    print(
        f"{verdicts['right']} right, {verdicts['within']} within the interval, "
        f"{verdicts['wrong']} wrong beyond it"
    )
    print("\nrows left out:")
    for row in report["left_out"]:
        print(f"{row['id']}  {row['chip']} {row['model']}, {row['variant']}: {row['reason']}")


def main() -> None:
    """Fit, judge, print."""
    parser = argparse.ArgumentParser(description="How well the latency model predicts.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    report = full_report()
    if parser.parse_args().json:
        print(json.dumps(report, indent=1))
    else:
        print_report(report)


if __name__ == "__main__":
    main()
