"""Takes the models of the zoo through capture, passes, conversion and the interpreter.

Each model runs in a process of its own, with random weights at realistic widths and few layers.
It is *verified* when its fp32 package is within a relative L2 error of 1e-4 of the module, and its
fp16 package within three times the error that the module itself has in half precision (see
``lowering.verification.parity.Thresholds``). Where one input fails at that, eight decide, by
root mean squares, and a note says so: one token that a router sends elsewhere is chance. Stock
coremltools runs beside it, by torch.jit.trace and by torch.export; its packages are executed too,
and count as right below an error of 0.1.

With ``--safe`` each is converted in safe precision too: a table has the models that it changes, by
the operators that it keeps in float32 and their share of the price, and both errors.

Results are kept in .cache/zoo and measured again when the sources change.

Exit codes: 0 at least 97 % of the models are verified and all are optimised, 1 fewer.
"""

from __future__ import annotations

import sys
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from benchmarks.zoo.catalog import FAMILIES, entries
from benchmarks.zoo.outcome import STAGES, Outcome, outcome
from benchmarks.zoo.run import run
from lowering.cli.common import (
    EXIT_CHECK_FAILED,
    guarded,
    json_option,
    print_json,
    stdout_console,
)
from lowering.precision.safe import SAFE

TARGET_RATE = 0.97
# Errors that differ by less come from other operators in another order.
_SAME_ERROR = 0.05


@click.command(help=__doc__)
@click.argument("names", nargs=-1)
@click.option(
    "--family",
    "families",
    multiple=True,
    type=click.Choice(list(FAMILIES)),
    help="Only this family; may be repeated.",
)
@click.option("--jobs", default=2, show_default=True, help="Models at a time.")
@click.option("--stock/--no-stock", default=True, help="Measure stock coremltools beside.")
@click.option("--fresh", is_flag=True, help="Measure everything again.")
@click.option("--resume", is_flag=True, help="Keep results of earlier sources too.")
@click.option("--safe", is_flag=True, help="Convert in safe precision too.")
@click.option("--brief", is_flag=True, help="Without the list of models.")
@json_option
@guarded
def main(
    names: tuple[str, ...],
    families: tuple[str, ...],
    jobs: int,
    stock: bool,
    fresh: bool,
    resume: bool,
    safe: bool,
    brief: bool,
    as_json: bool,
) -> None:
    """See the module."""
    chosen = _chosen(names, families)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("models", total=len(chosen))

        def done(name: str, result: dict[str, Any]) -> None:
            progress.advance(task)
            if not console.is_terminal:
                click.echo(f"{name}: {outcome(result).reason or 'verified'}", err=True)

        results = run(
            chosen, jobs=jobs, stock=stock, fresh=fresh, resume=resume, safe=safe, done=done
        )
    outcomes = {name: outcome(result) for name, result in results.items()}
    if as_json:
        print_json({"summary": _summary(outcomes), "models": results})
    else:
        output = stdout_console()
        output.print(_families(outcomes))
        if not brief:
            output.print(_models(outcomes, results))
        _print_failures(output, outcomes)
        _print_chance(output, results)
        if safe:
            output.print(_in_safe(results))
            for name, (before, after) in sorted(worse(results).items()):
                output.print(f"{name}: worse in safe precision, {before:.2g} to {after:.2g}")
    kept = _kept(outcomes) and not (safe and worse(results))
    sys.exit(0 if kept else EXIT_CHECK_FAILED)


def _chosen(names: tuple[str, ...], families: tuple[str, ...]) -> list[str]:
    known = entries()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise click.UsageError(f"no such model: {', '.join(unknown)}")
    if names:
        return list(names)
    return [name for name, (family, _) in known.items() if not families or family in families]


def _kept(outcomes: dict[str, Outcome]) -> bool:
    verified = sum(each.verified for each in outcomes.values())
    return verified >= TARGET_RATE * len(outcomes) and all(
        each.reached >= STAGES.index("optimized") + 1 for each in outcomes.values()
    )


def _counts(outcomes: list[Outcome]) -> list[int]:
    """Models, those that pass each stage, and of stock: measured, converted, right."""
    reached = [sum(each.reached > stage for each in outcomes) for stage in range(1, len(STAGES))]
    stock = [each for each in outcomes if each.stock]
    converted = sum(each.stock_converts for each in stock)
    return [len(outcomes), *reached, len(stock), converted, sum(e.stock_right for e in stock)]


def _summary(outcomes: dict[str, Outcome]) -> dict[str, int]:
    names = ("models", *STAGES[1:], "stock measured", "stock converted", "stock right")
    return dict(zip(names, _counts(list(outcomes.values())), strict=True))


def _families(outcomes: dict[str, Outcome]) -> Table:
    table = Table("family", box=None)
    for heading in ("models", *STAGES[1:], "stock: tried", "converts", "is right"):
        table.add_column(heading, justify="right")
    known = entries()
    for family in FAMILIES:
        members = [each for name, each in outcomes.items() if known[name][0] == family]
        if members:
            table.add_row(family, *map(str, _counts(members)))
    table.add_row("all", *map(str, _counts(list(outcomes.values()))))
    return table


def _models(outcomes: dict[str, Outcome], results: dict[str, dict[str, Any]]) -> Table:
    table = Table("model", box=None)
    for heading in ("ops", "fp32", "fp16", "half torch", "seconds", "MB", "stock"):
        table.add_column(heading, justify="right")
    for name, each in outcomes.items():
        result = results[name]
        numbers = [
            _number(result, *path)
            for path in (("fp32", "rel_l2"), ("fp16", "rel_l2"), ("fp16", "half"))
        ]
        seconds = sum(result.get("seconds", {}).values())
        stock = "right" if each.stock_right else "wrong" if each.stock_converts else "fails"
        table.add_row(
            escape(name),
            str(result.get("ops", "")),
            *numbers,
            f"{seconds:.0f}",
            f"{result.get('peak_mb', 0):.0f}",
            stock if each.stock else "",
        )
    return table


def worse(results: dict[str, dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Models whose error is above what is allowed in safe precision alone, or is larger there.

    By name: the error in float16, and that in safe precision.
    """
    found = {}
    for name, result in results.items():
        if "rel_l2" not in result.get(SAFE, {}) or "rel_l2" not in result.get("fp16", {}):
            continue
        plain, careful = result["fp16"], result[SAFE]
        grew = careful["rel_l2"] > plain["rel_l2"] * (1 + _SAME_ERROR)
        if not careful["passed"] and (plain["passed"] or grew):
            found[name] = (plain["rel_l2"], careful["rel_l2"])
    return found


def _in_safe(results: dict[str, dict[str, Any]]) -> Table:
    table = Table("changed by safe precision", box=None)
    for heading in ("float32 operators", "ends", "price ×", "fp16", "safe", "half torch"):
        table.add_column(heading, justify="right")
    for name, result in results.items():
        found = result.get(SAFE, {})
        same = not found.get("pins") and not found.get("ends")
        if not found or (same and found.get("before") == found.get("after")):
            continue
        table.add_row(
            escape(name),
            str(found["pins"]),
            str(found["ends"]),
            f"{found['price']:.3f}",
            _number(result, "fp16", "rel_l2"),
            _number(result, SAFE, "rel_l2"),
            _number(result, SAFE, "half"),
        )
    return table


def _number(result: dict[str, Any], *path: str) -> str:
    value: Any = result
    for key in path:
        value = (value or {}).get(key)
    return "" if value is None else f"{value:.1e}"


def _print_failures(output: Console, outcomes: dict[str, Outcome]) -> None:
    for name, each in outcomes.items():
        if not each.verified:
            output.print(f"{name}: {each.reason}", markup=False, highlight=False)


def _print_chance(output: Console, results: dict[str, dict[str, Any]]) -> None:
    for name, result in results.items():
        found = result.get("fp16", {})
        if "inputs" in found:
            first = max(output["rel_l2"] for output in found["first"])
            output.print(
                f"{name}: fp16 error {first:.2g} on one input; over {found['inputs']} inputs "
                f"{found['rel_l2']:.2g} (root mean square), {found['half']:.2g} in half torch",
                markup=False,
                highlight=False,
            )


if __name__ == "__main__":
    main()
