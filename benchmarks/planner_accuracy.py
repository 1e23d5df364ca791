"""How far the planner agrees with real dispatchers and real devices.

    python -m benchmarks.planner_accuracy                # all figures, as a table
    python -m benchmarks.planner_accuracy --json         # the same, machine-readable
    python -m benchmarks.planner_accuracy --dispatch F   # against another file of dumped figures

Capability, price and segmentation are compared with dumps of Core ML's dispatcher, the latency
model with published measurements, leaving one out. Nothing here is measured by us.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from coremltools import target as ct_target
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Program, Var, types

from benchmarks import latency_fit
from lowering.planner import OpFacts, capability, chip_names, price, segment
from lowering.planner.placement import plan
from lowering.planner.prices import cut_between, price_book, split_value
from lowering.planner.segmentation import path_cost

DISPATCH = Path(__file__).parent.parent / "tests/lowering/planner/data/dispatch.json"
# The acceptance bound on a price that was read from a dump.
PRICE_TOLERANCE = 1e-3
# Programs whose best placements differ by less cost the same.
TIE_MS = 1e-9
BACKENDS = ("ane", "bnns", "classic_cpu")


@dataclass(frozen=True)
class Dispatch:
    """Figures dumped from Core ML's dispatcher.

    Attributes:
        capability: (case, operator, whether the ANE can run it).
        prices: (case, operator, platform, backend to milliseconds, how it was read).
        programs: (id, operators in order, ``"ane"`` or ``"cpu"`` of each).
    """

    capability: tuple[tuple[str, OpFacts, bool], ...]
    prices: tuple[tuple[str, OpFacts, str, dict[str, float | None], str], ...]
    programs: tuple[tuple[str, tuple[OpFacts, ...], list[str]], ...]


def read_dispatch(path: Path = DISPATCH) -> Dispatch:
    """The dumped figures in ``path``, in the format its ``about`` describes."""
    raw = json.loads(path.read_text("utf-8"))
    ops = [OpFacts.from_json(_row(entry)) for entry in raw["ops"]]
    return Dispatch(
        tuple((case, ops[at], ane) for case, at, ane in raw["capability"]),
        tuple(
            (case, ops[at], platform, dict(zip(BACKENDS, figures, strict=True)), how)
            for case, at, platform, figures, how in raw["prices"]
        ),
        tuple(
            (name, tuple(ops[at] for at in members), ["ane" if c == "A" else "cpu" for c in where])
            for name, members, where in raw["programs"]
        ),
    )


def _row(entry: Sequence[Any]) -> dict[str, Any]:
    op_type, inputs, output, attributes = entry
    return {
        "op": op_type,
        "inputs": [{"shape": shape, "dtype": dtype} for shape, dtype in inputs],
        "output": {"shape": output[0], "dtype": output[1]},
        "attrs": attributes,
    }


@dataclass(frozen=True)
class Score:
    """Agreement on one question.

    Attributes:
        right: rows that agree, equal-cost ties included.
        total: rows compared.
        ties: programs placed differently at equal cost.
        wrong: one line for each row that disagrees.
    """

    right: int
    total: int
    ties: int = 0
    wrong: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "right": self.right,
            "total": self.total,
            "ties": self.ties,
            "wrong": list(self.wrong),
        }


def score_capability(dispatch: Dispatch, target: str = "M4") -> Score:
    """Whether the ANE can run each operator."""
    wrong = []
    for case, facts, ane in dispatch.capability:
        found = capability(facts, target)
        if found.ane != ane:
            wrong.append(f"{case} {facts.op_type}: dumped {ane}, found {found.reason}")
    total = len(dispatch.capability)
    return Score(total - len(wrong), total, wrong=tuple(wrong))


def price_error(found: Mapping[str, float | None], read: Mapping[str, float | None]) -> float:
    """Largest relative error over the backends; infinite when one prices and the other refuses."""
    worst = 0.0
    for backend, value in read.items():
        ours = found[backend]
        if (value is None) != (ours is None):
            return float("inf")
        if value is not None and ours is not None:
            worst = max(worst, abs(ours / value - 1))
    return worst


def score_prices(dispatch: Dispatch, *, read_only: bool = True) -> Score:
    """Prices within ``PRICE_TOLERANCE``; ``read_only`` leaves out rows rebuilt from formulas."""
    wrong = []
    total = 0
    for case, facts, platform, figures, how in dispatch.prices:
        if read_only and how == "model":
            continue
        total += 1
        error = price_error(price(facts, platform), figures)
        if error > PRICE_TOLERANCE:
            wrong.append(f"{case} {facts.op_type} on {platform}: off by {error:.2%}")
    return Score(total - len(wrong), total, wrong=tuple(wrong))


def score_programs(dispatch: Dispatch, target: str = "M4") -> Score:
    """Placement of whole programs, ties of equal cost aside."""
    wrong, ties = [], 0
    for name, ops, where in dispatch.programs:
        prices = [price(facts, target) for facts in ops]
        found = segment(prices, [capability(facts, target) for facts in ops])
        if found != where:
            excess = path_cost(where, prices) - path_cost(found, prices)
            if abs(excess) < TIE_MS:
                ties += 1
            else:
                wrong.append(f"{name}: dumped {where}, found {found}, {excess:+.6f} ms")
    total = len(dispatch.programs)
    return Score(total - len(wrong), total, ties, tuple(wrong))


def score_cuts_held_out(dispatch: Dispatch, folds: int = 5, seed: int = 0) -> Score:
    """Prices of table operators when the cuts between classes never saw the case.

    The rates are kept; the thresholds are found again from the other folds' cases.
    """
    book = price_book("H16G")
    rows = [
        (case, facts, figures)
        for case, facts, platform, figures, _ in dispatch.prices
        if platform == "H16G" and len(book.tables.get(facts.op_type, ("", ()))[1]) > 1
    ]
    cases = sorted({case for case, _, _ in rows})
    random.Random(seed).shuffle(cases)
    wrong, total = [], 0
    for fold in range(folds):
        held = set(cases[fold::folds])
        cuts = _cuts(_classes(row for row in rows if row[0] not in held))
        for case, facts, figures in rows:
            if case not in held:
                continue
            total += 1
            value = split_value(facts, book)
            lower = [name for cut, name in cuts.get(facts.op_type, ()) if value >= cut]
            true = _class_of(facts, figures)
            if not lower or lower[-1] != true:
                wrong.append(f"{case} {facts.op_type}: {true}, found {lower[-1:]} at {value:.4g}")
    return Score(total - len(wrong), total, wrong=tuple(wrong))


def _class_of(facts: OpFacts, figures: Mapping[str, float | None]) -> str:
    """The class whose rate reproduces the dumped price."""
    book = price_book("H16G")
    _, leaves = book.tables[facts.op_type]
    read = figures["classic_cpu"]
    assert read is not None
    errors = {
        leaf.name: abs(book.leaf_price(facts, leaf, "classic_cpu") / read - 1) for leaf in leaves
    }
    return min(errors, key=lambda name: errors[name])


def _classes(
    rows: Iterator[tuple[str, OpFacts, Mapping[str, float | None]]],
) -> dict[str, dict[str, list[float]]]:
    """Operator to class to the split values seen."""
    book = price_book("H16G")
    seen: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _, facts, figures in rows:
        seen[facts.op_type][_class_of(facts, figures)].append(split_value(facts, book))
    return seen


def _cuts(seen: Mapping[str, Mapping[str, list[float]]]) -> dict[str, list[tuple[float, str]]]:
    cuts: dict[str, list[tuple[float, str]]] = {}
    for op_type, classes in seen.items():
        ordered = sorted(classes, key=lambda name: min(classes[name]))
        cuts[op_type] = [(0.0, ordered[0])]
        for below, name in itertools.pairwise(ordered):
            cuts[op_type].append((cut_between(max(classes[below]), min(classes[name])), name))
    return cuts


def plan_seconds(layers: int, target: str = "M4") -> tuple[int, float]:
    """Operators of a DistilBERT-shaped program and the seconds to plan it once loaded.

    Args:
        layers: transformer blocks of width 768, 12 heads, 128 tokens.
        target: chip.
    """
    program = encoder_program(layers)
    start = time.perf_counter()
    made = plan(program, chip=target)
    return len(made.ops), time.perf_counter() - start


def encoder_program(layers: int, width: int = 768, heads: int = 12, tokens: int = 128) -> Program:
    """A MIL program with DistilBERT's operators: embedding look-up, then ``layers`` blocks.

    Weights are shared between blocks so that a deep program needs little memory.
    """
    rng = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return rng.standard_normal((rows, columns), np.float32).astype(np.float16)

    table, square = matrix(1000, width), matrix(width, width)
    up, down = matrix(4 * width, width), matrix(width, 4 * width)

    def split(x: Var) -> Var:
        x = mb.reshape(x=x, shape=(1, tokens, heads, width // heads))
        return mb.transpose(x=x, perm=(0, 2, 1, 3))

    def block(x: Var, mask: Var) -> Var:
        query, key, value = (split(mb.linear(x=x, weight=square)) for _ in range(3))
        scores = mb.matmul(x=mb.mul(x=query, y=np.float16(0.125)), y=key, transpose_y=True)
        mixed = mb.matmul(x=mb.softmax(x=mb.add(x=scores, y=mask), axis=-1), y=value)
        mixed = mb.reshape(x=mb.transpose(x=mixed, perm=(0, 2, 1, 3)), shape=(1, tokens, width))
        x = mb.layer_norm(x=mb.add(x=mb.linear(x=mixed, weight=square), y=x), axes=[-1])
        hidden = mb.gelu(x=mb.linear(x=x, weight=up))
        return mb.layer_norm(x=mb.add(x=mb.linear(x=hidden, weight=down), y=x), axes=[-1])

    specs = [
        mb.TensorSpec((1, tokens), types.int32),
        mb.TensorSpec((1, 1, tokens, tokens), types.fp16),
    ]

    @mb.program(input_specs=specs, opset_version=ct_target.iOS17)
    def program(ids: Var, mask: Var) -> Var:
        x = mb.gather(x=table, indices=ids, axis=0)
        for _ in range(layers):
            x = block(x, mask)
        return x

    return program


def full_report(dispatch_path: Path) -> dict[str, Any]:
    """All acceptance figures."""
    dispatch = read_dispatch(dispatch_path)
    latency = latency_fit.report(latency_fit.read_rows())
    times = {layers: plan_seconds(layers) for layers in (6, 12, 24, 48)}
    return {
        "capability": score_capability(dispatch).to_json(),
        "price, rows read": score_prices(dispatch).to_json(),
        "price, all rows": score_prices(dispatch, read_only=False).to_json(),
        "segmentation": score_programs(dispatch).to_json(),
        "price classes, cuts held out (5 folds)": score_cuts_held_out(dispatch).to_json(),
        "latency": {key: latency[key] for key in ("rates", "coverage", "chips", "not_fitted")},
        "plan_seconds": {
            f"{layers} layers": {"ops": ops, "seconds": seconds}
            for layers, (ops, seconds) in times.items()
        },
    }


def print_report(report: Mapping[str, Any]) -> None:
    """The figures as text."""
    for question in (name for name in report if name not in ("latency", "plan_seconds")):
        score = report[question]
        share = score["right"] / score["total"]
        ties = f", {score['ties']} of them ties of equal cost" if score["ties"] else ""
        print(f"{question}: {score['right']} of {score['total']} ({share:.1%}){ties}")
        for line in score["wrong"]:
            print(f"    {line}")
    latency = report["latency"]
    print(f"latency, left-out rows within their interval: {latency['coverage']:.1%}")
    print("chip       rows  median error  ... of a new model  covered  interval")
    for chip, entry in latency["chips"].items():
        if entry["rows"]:
            print(
                f"{chip:<10} {entry['rows']:>4}  {entry['median_error']:>12.1%}  "
                f"{entry['median_error_new_model']:>16.1%}  {entry['covered']:>7.0%}  "
                f"×/÷ {entry['interval_factor']:.2f}"
            )
    borrowed = [chip for chip, entry in latency["chips"].items() if not entry["rows"]]
    unknown = [chip for chip in chip_names() if chip not in latency["chips"]]
    print(f"no rows, from the same generation of ANE: {', '.join(borrowed)}")
    print(f"unknown: {', '.join(unknown)}")
    print("not fitted, input length assumed:")
    for row in latency["not_fitted"]:
        print(
            f"    {row['chip']} {row['program']}: measured {row['measured_ms']:g} ms, "
            f"predicted {row['predicted_ms']:.1f} ms"
        )
    for name, entry in report["plan_seconds"].items():
        per_op = entry["seconds"] / entry["ops"] * 1e6
        print(f"plan, {name}: {entry['ops']} ops in {entry['seconds']:.3f} s ({per_op:.0f} µs/op)")


def main() -> None:
    """Compare, and print."""
    parser = argparse.ArgumentParser(description="How far the planner agrees with the real thing.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--dispatch", type=Path, default=DISPATCH, help="dumped figures")
    arguments = parser.parse_args()
    logging.getLogger("coremltools").setLevel(logging.CRITICAL)
    report = full_report(arguments.dispatch)
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        print_report(report)


if __name__ == "__main__":
    main()
