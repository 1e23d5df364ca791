"""Counts the operators of converted models beside those of ports that people wrote by hand.

For each model: MIL operators of our package with the limit beside each, the largest difference of
the rewritten module from the original in float32, and the relative error of the fp16 package, run
in the reference interpreter. Inputs of the comparisons are fresh random ones.

Some models are farther from their own float64 result than the float32 bound allows. The rewritten
module then has to be about as near to float64 as the original is; such a figure is marked ~.

Exit codes: 0 every limit is kept, 1 one is missed.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from frontend.errors import AnePassesError
from lowering.cli.common import (
    EXIT_CHECK_FAILED,
    guarded,
    json_option,
    print_json,
    stdout_console,
    step,
)

if TYPE_CHECKING:
    import coremltools as ct
    from torch import Tensor, nn

    from benchmarks.ports import Port

# Parity of the rewritten module in float32, per element.
RTOL, ATOL = 1e-5, 1e-6
# How much farther than the original from the float64 result: two sums of the same numbers in
# different order err alike, and the largest of many thousand such errors varies by less than this.
OWN_ERROR_FACTOR = 2.0
# Relative L2 error of the fp16 package: 2^-11 is one rounding, a model makes some hundred.
PACKAGE_BOUND = 1e-2
METRICS = ("ops", "transpose", "reshape", "rank≠4", "linear", "matmul", "layer_norm")
PRICE = "price"
CHIP = "M4"


@dataclass(frozen=True)
class Count:
    """A metric of a package and its limit.

    Attributes:
        metric: which.
        found: its value, a count or milliseconds.
        limit: what it must come to, ``""`` where nothing is asked.
        kept: whether it does.
    """

    metric: str
    found: float
    limit: str = ""
    kept: bool = True

    def __str__(self) -> str:
        sign = "" if self.kept else "[red]✗[/red] "
        found = f"{self.found:.3g}" if isinstance(self.found, float) else str(self.found)
        return f"{sign}{found} {self.limit}".rstrip()


def counts(mlmodel: ct.models.MLModel, port: Port) -> list[Count]:
    """Metrics of a converted model: operator counts, ``rank≠4``, ``X in blocks``."""
    from lowering.planner.mil_stats import mil_stats

    stats = mil_stats(mlmodel)
    found = {
        **{metric: stats.count(metric) for metric in METRICS},
        "ops": stats.ops,
        "rank≠4": stats.not_rank4,
    }
    inside = _ops_in_blocks(mlmodel, port.block) if port.block else []
    for op_type in port.banned:
        found[f"{op_type} in blocks"] = inside.count(op_type)
    limits = {
        **{metric: ("≤", value) for metric, value in port.at_most.items()},
        **{metric: ("=", value) for metric, value in port.exactly.items()},
        **{f"{op_type} in blocks": ("=", 0) for op_type in port.banned},
    }
    result = []
    for metric, value in found.items():
        if metric not in limits:
            result.append(Count(metric, value))
            continue
        sign, limit = limits[metric]
        kept = value <= limit if sign == "≤" else value == limit
        result.append(Count(metric, value, f"{sign}{limit}", kept))
    return result


def price(
    mlmodel: ct.models.MLModel, port: Port, model: nn.Module, inputs: Mapping[str, Tensor]
) -> Count:
    """The dispatcher's price of a converted model, and the port's own where it is written here."""
    from benchmarks.stock import stock_convert
    from lowering import plan

    found = plan(mlmodel, chip=CHIP).dispatch_ms
    if port.by_hand is None:
        return Count(PRICE, found)
    by_hand = stock_convert(port.by_hand(model), tuple(inputs.values())).mlmodel
    limit = plan(by_hand, chip=CHIP).dispatch_ms
    return Count(PRICE, found, f"≤{limit:.3g}", found <= limit)


def _ops_in_blocks(mlmodel: ct.models.MLModel, block: str) -> list[str]:
    """Operator types from the first to the last operator that comes from a module in ``block``.

    Raises:
        ValueError: no operator does.
    """
    from lowering.package.source_table import SourceTable

    sources = SourceTable.from_metadata(mlmodel.user_defined_metadata)
    ops = [
        op
        for op in mlmodel._mil_program.functions["main"].operations
        if op.op_type != "const" and not op.op_type.startswith("constexpr")
    ]
    places = [i for i, op in enumerate(ops) if sources.lookup(op.name).module.startswith(block)]
    if not places:
        raise ValueError(f"no operator of the package comes from a module in {block!r}")
    return [op.op_type for op in ops[places[0] : places[-1] + 1]]


def measure(name: str) -> dict[str, Any]:
    """Everything about one port, as JSON values; its counts stay objects."""
    import torch

    import passes
    from benchmarks.ports import PORTS
    from lowering.conversion.converter import convert
    from lowering.reference import load

    port = PORTS[name]
    torch.manual_seed(0)
    model, inputs = port.build()
    start = time.perf_counter()
    optimized = passes.optimize_for_ane(model, (), kwargs=inputs(), pipeline=port.pipeline)
    optimised_at = time.perf_counter()
    mlmodel = convert(optimized, skip_model_load=True)
    converted_at = time.perf_counter()
    fresh = inputs()
    with torch.no_grad():
        want = _first(model(**fresh))
        got = _shaped(_first(optimized(**fresh)), want)
        allclose = bool(torch.allclose(got, want, rtol=RTOL, atol=ATOL))
        as_near = allclose or _as_near(model, fresh, want, got)
    package = load(mlmodel)
    ran = torch.from_numpy(package(fresh)[mlmodel.get_spec().description.output[0].name])
    ran = _shaped(ran.float(), want)
    relative = float((ran - want).norm() / want.norm())
    found = [*counts(mlmodel, port), price(mlmodel, port, model, fresh)]
    return {
        "name": name,
        "port": port.port,
        "counts": found,
        "max_abs_difference": float((got - want).abs().max()),
        "allclose": allclose,
        "as_near_to_float64": as_near,
        "package_relative_l2": relative,
        "optimize_seconds": round(optimised_at - start, 2),
        "convert_seconds": round(converted_at - optimised_at, 2),
        "kept": as_near and relative <= PACKAGE_BOUND and all(count.kept for count in found),
    }


def _as_near(model: nn.Module, inputs: dict[str, Any], want: Tensor, got: Tensor) -> bool:
    """Whether ``got`` is about as near to the float64 result as ``want``, the original's, is."""
    double = copy.deepcopy(model).double()
    exact = _first(
        double(**{k: v.double() if v.is_floating_point() else v for k, v in inputs.items()})
    )
    own = float((want - exact).abs().max())
    return float((got - exact).abs().max()) <= OWN_ERROR_FACTOR * own


def _shaped(result: Tensor, like: Tensor) -> Tensor:
    """An image (B, C, 1, S) as the tokens (B, S, C) that the original returns."""
    return result if result.shape == like.shape else result.squeeze(2).transpose(1, 2)


def _attempt(name: str) -> dict[str, Any]:
    """``measure(name)``; a model that cannot be converted is a result, and the others go on."""
    try:
        return measure(name)
    except AnePassesError as error:
        click.echo(str(error), err=True)
        return {"name": name, "kept": False, "counts": [], **error.to_json()}


def _first(output: Sequence[Tensor]) -> Tensor:
    """The first tensor of a Hugging Face output."""
    return output[0]


def table(results: list[dict[str, Any]]) -> Table:
    """One row for each model; a missed limit is marked."""
    shown = Table(box=None, pad_edge=False)
    shown.add_column("model", no_wrap=True)
    for heading in (*METRICS, PRICE, "in blocks", "fp32\nmax |Δ|", "fp16\nrel L2"):
        shown.add_column(heading.replace("_", "\n"), justify="right")
    for result in results:
        if "error" in result:
            shown.add_row(result["name"], "[red]✗[/red] error")
            continue
        by_metric = {count.metric: count for count in result["counts"]}
        inside = [c for c in result["counts"] if c.metric.endswith(" in blocks")]
        bad = [f"[red]✗[/red] {c.found:g} {c.metric.split()[0]}" for c in inside if not c.kept]
        near = "~" if result["as_near_to_float64"] else "[red]✗[/red] "
        parity = "" if result["allclose"] else near
        package = "" if result["package_relative_l2"] <= PACKAGE_BOUND else "[red]✗[/red] "
        shown.add_row(
            result["name"],
            *(str(by_metric[metric]) for metric in (*METRICS, PRICE)),
            ", ".join(bad) if bad else "clean" if inside else "",
            f"{parity}{result['max_abs_difference']:.1e}",
            f"{package}{result['package_relative_l2']:.1e}",
        )
    return shown


@click.command(help=__doc__)
@click.option("--only", "names", multiple=True, metavar="NAME", help="Only this model; repeatable.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@json_option
@guarded
def main(names: tuple[str, ...], threads: int, as_json: bool) -> None:
    """See the module."""
    import torch

    from benchmarks.ports import PORTS

    unknown = [name for name in names if name not in PORTS]
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)}; there are {', '.join(PORTS)}")
    torch.set_num_threads(threads)
    results = []
    for name in names or PORTS:
        with step(name):
            results.append(_attempt(name))
        click.echo(f"{name} {'kept' if results[-1]['kept'] else 'MISSED'}", err=True)
    if as_json:
        print_json([{**r, "counts": [vars(count) for count in r["counts"]]} for r in results])
    else:
        console = stdout_console()
        console.print(table(results))
        console.print(
            f"\n≤ and = are limits, ✗ a missed one. Fresh random inputs; float32 within rtol "
            f"{RTOL:g}, atol {ATOL:g}\n(~: beyond it, as the original is from its own float64 "
            f"result); package within {PACKAGE_BOUND:g}. Price: ms, {CHIP}, predicted."
        )
    if not all(result["kept"] for result in results):
        sys.exit(EXIT_CHECK_FAILED)


if __name__ == "__main__":
    main()
