"""What would change if operators that the ANE refuses were supported, or left to the host.

All figures are differences of the dispatcher's own price. Which changes pay is found from the
cheapest costs before and after each stretch of operators, one pass in each direction; only the
few that are shown are placed anew.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lowering.planner.capabilities import Capability
from lowering.planner.mil import ReadProgram
from lowering.planner.prices import PriceBook, switch_ms
from lowering.planner.result import Advice
from lowering.planner.segmentation import segment, segment_costs

# Advice worth less than a hundredth of a switch is not given.
_LEAST_GAIN_MS = 0.00125
# Operators named in a sentence.
_SHOWN = 3

Prices = dict[str, float | None]


@dataclass(frozen=True)
class _Change:
    """Operators ``start`` to ``stop`` made supported, or computed on the host."""

    gain_ms: float
    kind: str
    start: int
    stop: int


def count_switches(devices: Sequence[str]) -> int:
    """Changes of device, entry from and return to the host included."""
    return sum(a != b for a, b in itertools.pairwise(("cpu", *devices, "cpu")))


def advise(
    program: ReadProgram,
    prices: Sequence[Prices],
    able: Sequence[Capability],
    devices: Sequence[str],
    book: PriceBook,
    count: int = 10,
) -> tuple[Advice, ...]:
    """The changes that would save most, best first.

    Args:
        program: the operators.
        prices: the dispatcher's prices of each.
        able: what the ANE can run.
        devices: where each is placed now.
        book: prices of refused operators as if the ANE had them.
        count: how many pieces of advice.
    """
    changes = sorted(
        (c for c in _changes(program, prices, able, book) if c.gain_ms > _LEAST_GAIN_MS),
        key=lambda change: (-change.gain_ms, change.kind),
    )
    return tuple(
        _advice(program, prices, able, devices, change, book) for change in changes[:count]
    )


def _changes(
    program: ReadProgram, prices: Sequence[Prices], able: Sequence[Capability], book: PriceBook
) -> Iterator[_Change]:
    before, after = segment_costs(prices, able)
    fee = switch_ms()
    total = min(before[-1][0] + fee, before[-1][1])
    readers = _readers(program)
    for refused, group in itertools.groupby(range(len(able)), lambda index: not able[index].ane):
        if not refused:
            continue
        stretch = list(group)
        start, stop = stretch[0], stretch[-1] + 1
        ane_cost = sum(book.price(op.facts, "ane") for op in program.ops[start:stop])
        entered = min(before[start][0], before[start][1] + fee)
        yield _Change(total - (entered + ane_cost + after[stop][0]), "supported", start, stop)
        # A program without its operators is no program to run.
        if stop - start < len(able) and _host_can_do(program, readers, start, stop):
            skipped = min(before[start][d] + after[stop][d] for d in (0, 1))
            yield _Change(total - skipped, "host", start, stop)


def _readers(program: ReadProgram) -> dict[str, list[int]]:
    readers = defaultdict(list)
    for index, op in enumerate(program.ops):
        for name in op.reads:
            readers[name].append(index)
    return readers


def _host_can_do(
    program: ReadProgram, readers: dict[str, list[int]], start: int, stop: int
) -> bool:
    """The stretch reads nothing but inputs of the program, or only its outputs use it."""
    members = program.ops[start:stop]
    written = {name for op in members for name in op.writes}
    reads = {name for op in members for name in op.reads} - written
    leading = reads <= set(program.inputs)
    trailing = all(start <= reader < stop for name in written for reader in readers.get(name, ()))
    return leading or trailing


def _advice(
    program: ReadProgram,
    prices: Sequence[Prices],
    able: Sequence[Capability],
    devices: Sequence[str],
    change: _Change,
    book: PriceBook,
) -> Advice:
    start, stop = change.start, change.stop
    inside = program.ops[start:stop]
    new_prices: list[Prices] = []
    if change.kind == "supported":
        new_prices = [
            {**price, "ane": book.price(op.facts, "ane")}
            for price, op in zip(prices[start:stop], inside, strict=True)
        ]
    new_able = [Capability(True)] * len(new_prices)
    after = segment(
        [*prices[:start], *new_prices, *prices[stop:]], [*able[:start], *new_able, *able[stop:]]
    )
    outside = [*devices[:start], *devices[stop:]].count("ane")
    outside_after = [*after[:start], *after[start + len(new_prices) :]].count("ane")
    switches = count_switches(after) - count_switches(devices)
    moved = outside_after - outside
    cost = -change.gain_ms
    sentence = _sentence([op.facts.op_type for op in inside], change.kind, switches, moved, cost)
    return Advice(
        tuple(op.facts.name for op in inside), change.kind, switches, cost, moved, sentence
    )


def _sentence(op_types: Sequence[str], kind: str, switches: int, moved: int, cost: float) -> str:
    distinct = list(dict.fromkeys(op_types))
    names = ", ".join(distinct[:_SHOWN]) + (", …" if len(distinct) > _SHOWN else "")
    subject = f"this {names}" if len(op_types) == 1 else f"these {len(op_types)} ({names})"
    action = f"moving {subject} to the host" if kind == "host" else f"an ANE form of {subject}"
    effects = []
    if switches:
        verb = "removes" if switches < 0 else "adds"
        effects.append(f"{verb} {abs(switches)} switch{'es' if abs(switches) > 1 else ''}")
    if moved:
        direction = "to" if moved > 0 else "from"
        plural = "s" if abs(moved) > 1 else ""
        effects.append(f"moves {abs(moved)} other operator{plural} {direction} the ANE")
    effects.append(f"{cost:+.3f} ms predicted in the dispatcher's price".replace("-", "−"))
    return f"{action}: {', '.join(effects)}"
