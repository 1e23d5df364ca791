"""How far the planner agrees with real dispatchers and real devices.

    python -m benchmarks.planner_accuracy                # all figures, as a table
    python -m benchmarks.planner_accuracy --json         # the same, machine-readable
    python -m benchmarks.planner_accuracy --dispatch F   # against another file of dumped figures

Capability, price and segmentation are compared with dumps of Core ML's dispatcher, the latency
model with published measurements, leaving one out. Nothing here is measured by us.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowering.planner import OpFacts, capability, price, segment
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
