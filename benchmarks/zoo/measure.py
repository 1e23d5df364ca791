"""One model of the zoo in a process of its own: ``python -m benchmarks.zoo.measure NAME``.

Prints one JSON object on the last line of stdout. What fails is recorded with its message; only
building the model itself is allowed to end the process.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import click
import coremltools as ct
import torch
from torch import nn

import passes
from benchmarks.zoo.catalog import entries
from benchmarks.zoo.entry import CHECK_SEED, Entry, Inputs
from benchmarks.zoo.stock_side import stock_side
from frontend.errors import AnePassesError
from lowering import convert
from lowering.precision.pins import PinReport
from lowering.precision.safe import SAFE
from lowering.verification import Original, Thresholds, Verification, verify

# A router that rounds to another expert on one token, or a maximum to another place, is chance: one
# input says little about a package that chooses. Where the first fails, this many decide.
MORE_INPUTS = 8
_T = TypeVar("_T")
_PRECISIONS = {"fp32": ct.precision.FLOAT32, "fp16": ct.precision.FLOAT16}
_STATES_SINCE = ct.target.iOS18


def measure(name: str, *, ours: bool, stock: bool, safe: bool = False) -> dict[str, Any]:
    """Every stage of one model: its seconds and errors, and what stock makes of it.

    Args:
        name: of the model.
        ours: measure it through the passes, conversion and the interpreter.
        stock: measure stock coremltools.
        safe: convert in safe precision too.
    """
    entry = entries()[name][1]
    module, example, check = entry.made()
    result: dict[str, Any] = {"parameters": sum(p.numel() for p in module.parameters())}
    if ours:
        _ours(result, entry, module, example, check, safe)
    if stock:
        result["stock"] = stock_side(module, example, check)
    return result


def _ours(
    result: dict[str, Any],
    entry: Entry,
    module: nn.Module,
    example: Inputs,
    check: Inputs,
    safe: bool,
) -> None:
    optimized = _stage(result, "optimize", lambda: passes.optimize_for_ane(module, kwargs=example))
    if optimized is not None:
        result["rewrites"] = sum(report.rewrites for report in optimized.reports)
        _lower(result, entry, module, optimized, check, safe)
    result["peak_mb"] = _peak_mb()


def _lower(
    result: dict[str, Any],
    entry: Entry,
    module: nn.Module,
    optimized: passes.OptimizedModule,
    check: Inputs,
    safe: bool,
) -> None:
    target = (
        _STATES_SINCE if optimized.program.graph_signature.buffers_to_mutate else ct.target.iOS17
    )
    result["target"] = target.name

    def original(inputs: Inputs) -> Original:
        found = Original.of(optimized, (), inputs)
        return replace(found, module=copy.deepcopy(module))

    against = _stage(result, "check inputs", partial(original, check))
    if against is None:
        return
    ways: dict[str, dict[str, Any]] = {
        precision: {"compute_precision": compute} for precision, compute in _PRECISIONS.items()
    }
    if safe:
        ways[SAFE] = {"precision": SAFE}
    for precision, options in ways.items():
        mlmodel = _stage(
            result,
            f"convert {precision}",
            partial(
                convert,
                optimized,
                minimum_deployment_target=target,
                skip_model_load=True,
                **options,
            ),
        )
        if mlmodel is None:
            continue
        found = _stage(result, f"verify {precision}", partial(verify, mlmodel, against))
        if found is not None:
            result[precision] = _errors(found)
            if precision != "fp32" and not found.passed:
                more = _over_more_inputs(mlmodel, entry, module, original)
                result[precision] |= {"first": found.to_json()["outputs"], **more}
        if precision == SAFE:
            result[SAFE] = {**result.get(SAFE, {}), **_pins(mlmodel)}
        elif found is not None:
            program = mlmodel._mil_program.functions["main"]
            result["ops"] = sum(
                op.op_type != "const" and not op.op_type.startswith("constexpr")
                for op in program.operations
            )


def _pins(mlmodel: ct.models.MLModel) -> dict[str, Any]:
    """What safe precision did to a package."""
    report = PinReport.from_metadata(mlmodel.user_defined_metadata)
    assert report is not None, "every package in safe precision has one"
    return {
        "pins": len(report.pins),
        "ends": len(report.ends),
        "before": report.before,
        "after": report.after,
        "price": report.price_after / report.price_before if report.price_before else 1.0,
    }


def _stage(result: dict[str, Any], stage: str, action: Callable[[], _T]) -> _T | None:
    """The action's value; ``None``, with its message recorded, if it fails."""
    start = time.perf_counter()
    try:
        return action()
    except AnePassesError as error:
        result.setdefault("failed", {})[stage] = str(error)
    except Exception as error:  # what is no AnePassesError is a fault of ours, and is listed as one
        result.setdefault("failed", {})[stage] = f"CRASH {type(error).__name__}: {error}"
    finally:
        result.setdefault("seconds", {})[stage] = round(time.perf_counter() - start, 2)
    return None


def _errors(found: Verification) -> dict[str, Any]:
    """The worst output of a verification."""
    worst = max(found.outputs, key=lambda output: output.rel_l2 / output.threshold)
    return {
        "passed": found.passed,
        "rel_l2": worst.rel_l2,
        "half": worst.yardstick,
        "allowed": worst.threshold,
        "said": "" if found.passed else json.dumps(found.to_json(), default=str)[:2000],
    }


def _over_more_inputs(
    mlmodel: ct.models.MLModel, entry: Entry, module: nn.Module, original: Callable[[Any], Original]
) -> dict[str, Any]:
    """The same errors as root mean squares over ``MORE_INPUTS`` inputs, the first one among them.

    Of the output that comes out worst.
    """
    squares: dict[str, list[tuple[float, float]]] = {}
    for seed in range(CHECK_SEED, CHECK_SEED + MORE_INPUTS):
        torch.manual_seed(seed)
        found = verify(mlmodel, original(entry.draw(module)), locate=False)
        for output in found.outputs:
            half = math.nan if output.yardstick is None else output.yardstick
            squares.setdefault(output.name, []).append((output.rel_l2**2, half**2))
    worst: dict[str, Any] = {}
    for pairs in squares.values():
        rel_l2, half = (math.sqrt(sum(column) / len(pairs)) for column in zip(*pairs, strict=True))
        allowed = Thresholds().allowed(True, half)
        if not worst or rel_l2 / allowed > worst["rel_l2"] / worst["allowed"]:
            worst = {"rel_l2": rel_l2, "half": half, "allowed": allowed}
    return {**worst, "passed": worst["rel_l2"] <= worst["allowed"], "inputs": MORE_INPUTS}


def _peak_mb() -> float:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


@click.command()
@click.argument("name")
@click.option("--ours/--no-ours", default=True, help="Measure ane-passes.")
@click.option("--stock/--no-stock", default=True, help="Measure stock coremltools.")
@click.option("--safe", is_flag=True, help="Convert in safe precision too.")
def main(name: str, ours: bool, stock: bool, safe: bool) -> None:
    """Measure one model and print it as JSON."""
    print(json.dumps(measure(name, ours=ours, stock=stock, safe=safe)))


if __name__ == "__main__":
    main()
