"""The lines that only a device can show: skips, each with the command to run there."""

from __future__ import annotations

from lowering.contract.ship.looked_at import Shipped
from lowering.contract.ship.result import Row
from lowering.planner.planned import compare, read_compute_plan

# Where Core ML's own plan and the prediction part on more operators than this, the latter is wrong.
_ALIKE = 0.8


def compute_plan(subject: Shipped) -> Row:
    """Where Core ML itself would run each operator."""
    package = subject.package_word
    command = (
        f"on a Mac: python -m lowering.planner.export_compute_plan {package} -o plan.json; "
        f"then: ane-passes check {subject.folder.path} --ship --planned plan.json"
    )
    if subject.planned is None:
        return Row("compute plan", "skip", "Core ML plans on a Mac only", command)
    found = compare(subject.plan, *read_compute_plan(subject.planned))
    alike = found.agreement
    if alike is None:
        return Row("compute plan", "fail", "the plan is of another package", command)
    text = f"{alike:.0%} of the operators where they were predicted"
    return Row("compute plan", "pass" if alike >= _ALIKE else "fail", text, command)


def latency(subject: Shipped) -> Row:
    """Time of a call."""
    predicted = subject.plan.latency_ms
    known = subject.plan.latency_note if predicted is None else f"predicted {predicted}"
    return Row(
        "latency",
        "skip",
        f"no device here; {known}",
        f"on a Mac: ane-passes plan {subject.package_word} --observe 100",
    )


def instruments(subject: Shipped) -> Row:
    """That the Neural Engine is really used."""
    return Row(
        "instruments",
        "skip",
        "no device here",
        "on a Mac: xcrun xctrace record --template 'Core ML' --time-limit 10s --launch -- "
        f"$(which python3) -m lowering.cli predict {subject.package_word}",
    )


def power(subject: Shipped) -> Row:
    """Power that the Neural Engine draws while the model runs."""
    return Row(
        "power",
        "skip",
        "no device here",
        "on a Mac, while the model runs: sudo powermetrics --samplers ane_power -i 500 -n 20",
    )


def breakpoints(subject: Shipped) -> Row:
    """That the process loads the Neural Engine's framework and evaluates on it."""
    return Row(
        "breakpoints",
        "skip",
        "no device here",
        "on a Mac: lldb -n YOURAPP -o 'breakpoint set -r \"_ANEClient.*evaluate\"' -o continue",
    )


def memory(subject: Shipped) -> Row:
    """Memory of the process at its peak."""
    return Row(
        "memory",
        "skip",
        "no device here",
        "on a Mac: xcrun xctrace record --template Allocations --attach YOURAPP, or "
        "footprint YOURAPP",
    )
