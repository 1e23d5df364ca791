"""The dispatcher's price of one operator on each backend; not a run time."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lowering.planner.capabilities import capability
from lowering.planner.facts import OpFacts
from lowering.planner.targets import dispatcher, platform_of
from lowering.planner.work import MIB, intensity, moved_bytes, operations

# The two CPU backends of the dispatcher, BNNS (Accelerate's kernels) and the older classic one.
BACKENDS = ("ane", "bnns", "classic_cpu")
_GIB = 2.0**30
_MS = 1e3

# What an operator's table is split on.
_SPLITS = {
    "mflop_per_mib": intensity,
    "output_mib": lambda facts: facts.output.bytes / MIB,
    None: lambda facts: 0.0,
}


@dataclass(frozen=True)
class Leaf:
    """Rates of one class of an operator.

    Attributes:
        name: class name, as in the dumps' order (lo, mid, hi).
        above: the class holds from this value of the table's split variable on.
        gflops: rate of each backend in billions of operations per second; a backend that is not
            in it is priced by its roofline.
    """

    name: str
    above: float
    gflops: Mapping[str, float]


@dataclass(frozen=True)
class PriceBook:
    """Prices of one platform.

    Attributes:
        platform: compiler's name of the ANE, such as ``H16G``.
        roofline: backend to (operations per second, bytes per second).
        tables: operator to (split variable, leaves from low to high).
        confidence: 0 to 1, how far the constants of this platform were read rather than assumed.
        note: what was read and what is assumed.
    """

    platform: str
    roofline: Mapping[str, tuple[float, float]]
    tables: Mapping[str, tuple[str | None, tuple[Leaf, ...]]]
    confidence: float
    note: str

    def price(self, facts: OpFacts, backend: str) -> float:
        """Milliseconds of ``facts`` on ``backend``."""
        _, leaves = self.tables.get(facts.op_type, (None, ()))
        if leaves:
            value = split_value(facts, self)
            leaf = next((leaf for leaf in reversed(leaves) if value >= leaf.above), leaves[0])
            if backend in leaf.gflops:
                return self.leaf_price(facts, leaf, backend)
        peak, bandwidth = self.roofline[backend]
        return max(operations(facts) / peak, moved_bytes(facts) / bandwidth) * _MS

    def leaf_price(self, facts: OpFacts, leaf: Leaf, backend: str) -> float:
        """Milliseconds of ``facts`` if it were in ``leaf``."""
        return operations(facts) / (leaf.gflops[backend] * 1e9) * _MS


def split_value(facts: OpFacts, book: PriceBook) -> float:
    """The value that decides the class of ``facts`` in its table; 0 for undivided tables."""
    split, _ = book.tables[facts.op_type]
    return _SPLITS[split](facts)


def cut_between(low: float, high: float) -> float:
    """Where to cut between the highest value seen of one class and the lowest of the next.

    The true cut is not known; sizes spread over decades, so the middle is taken in logarithms.
    """
    return math.sqrt(low * high) if low > 0 else high / 2


@functools.cache
def price_book(platform: str) -> PriceBook:
    """The prices of ``platform``, with what it leaves out taken from the platform it names."""
    data = dispatcher()["platforms"]
    entry = data[platform]
    base = data[entry["same_as"]] if "same_as" in entry else entry
    roofline = {**base["roofline"], **entry.get("roofline", {})}
    tables = dict(base["tables"])
    for op_type, table in entry.get("tables", {}).items():
        tables[op_type] = table if "leaves" in table else _override(tables[op_type], table)
    return PriceBook(
        platform,
        {name: (roof["gflops"] * 1e9, roof["gib_s"] * _GIB) for name, roof in roofline.items()},
        {op_type: (table.get("split"), _leaves(table)) for op_type, table in tables.items()},
        entry["confidence"],
        entry.get("note", ""),
    )


def _override(base: Mapping[str, Any], rates: Mapping[str, Any]) -> dict[str, Any]:
    leaves = [{**leaf, **rates.get(leaf["name"], {})} for leaf in base["leaves"]]
    return {**base, "leaves": leaves}


def _leaves(table: Mapping[str, Any]) -> tuple[Leaf, ...]:
    leaves: list[Leaf] = []
    highest_below = 0.0
    for entry in table["leaves"]:
        low, high = entry["seen"]
        above = cut_between(highest_below, low) if leaves else 0.0
        rates = {name: entry[name] for name in BACKENDS if name in entry}
        leaves.append(Leaf(entry["name"], above, rates))
        highest_below = high or 0.0
    return tuple(leaves)


def switch_ms() -> float:
    """Price of each change of device, milliseconds; graph inputs and outputs are on the host."""
    return float(dispatcher()["switch_ms"]["value"])


def price_caveats(op_types: Iterable[str]) -> list[str]:
    """What the prices of these operators rest on, where that is little."""
    known: Mapping[str, str] = dispatcher()["caveats"]
    return [f"assumed: {known[op_type]}" for op_type in sorted(op_types) if op_type in known]


def price(facts: OpFacts, target: str = "M4") -> dict[str, float | None]:
    """The dispatcher's price of one operator: an estimate it decides by, not a run time.

    Args:
        facts: the operator.
        target: chip (``"M4"``) or platform (``"H16G"``).

    Returns:
        Milliseconds for ``"ane"`` (``None`` where the ANE cannot run it), ``"bnns"`` and
        ``"classic_cpu"``. *Measured* on H16G; other platforms partly *assumed*, see
        ``dispatcher.json``.

    Raises:
        UnknownChipError: no such chip.
    """
    book = price_book(platform_of(target))
    prices: dict[str, float | None] = {name: book.price(facts, name) for name in BACKENDS[1:]}
    able = capability(facts, target).ane
    return {"ane": book.price(facts, "ane") if able else None, **prices}
