"""Which device the dispatcher gives each operator to: a shortest path with a price per switch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lowering.planner.capabilities import Capability
from lowering.planner.prices import switch_ms

# Sums of prices in a different order differ in the last bits; closer than this is a tie.
_TIE_MS = 1e-9
_UNREACHABLE = float("inf")


def cpu_price(prices: Mapping[str, float | None]) -> float:
    """The cheaper of the CPU's two backends, milliseconds."""
    return min(value for name, value in prices.items() if name != "ane" and value is not None)


def path_cost(
    devices: Sequence[str],
    prices: Sequence[Mapping[str, float | None]],
    switch: float | None = None,
) -> float:
    """What the dispatcher would pay for ``devices``, milliseconds, switches included."""
    fee = switch_ms() if switch is None else switch
    total, before = 0.0, "cpu"
    for device, price in zip(devices, prices, strict=True):
        if device == "ane":
            ane = price.get("ane")
            total += float("inf") if ane is None else ane
        else:
            total += cpu_price(price)
        total += fee * (device != before)
        before = device
    return total + fee * (before != "cpu")


def segment(
    prices: Sequence[Mapping[str, float | None]],
    capabilities: Sequence[Capability],
    *,
    switch: float | None = None,
) -> list[str]:
    """The cheapest way through the program, operator by operator in program order.

    Graph inputs and outputs count as host. A change between the CPU's own backends is free
    (*assumed*: not determined by the dumps). Ties go to the ANE.

    Args:
        prices: one mapping from ``planner.price`` per operator.
        capabilities: one ``planner.capability`` per operator.
        switch: milliseconds per change of device, the dumps' 0.125 (*measured*) by default.

    Returns:
        ``"ane"`` or ``"cpu"`` per operator.
    """
    fee = switch_ms() if switch is None else switch
    on_ane, on_cpu = _UNREACHABLE, 0.0
    came_from: list[tuple[bool, bool]] = []
    for price, able in zip(prices, capabilities, strict=True):
        stay_on_ane = on_ane <= on_cpu + fee + _TIE_MS
        leave_ane = on_ane + fee <= on_cpu + _TIE_MS
        came_from.append((stay_on_ane, leave_ane))
        on_ane, on_cpu = _step((on_ane, on_cpu), price, able, fee)
    devices: list[str] = []
    is_ane = on_ane + fee <= on_cpu + _TIE_MS
    for stay_on_ane, leave_ane in reversed(came_from):
        devices.append("ane" if is_ane else "cpu")
        is_ane = stay_on_ane if is_ane else leave_ane
    return devices[::-1]


def segment_costs(
    prices: Sequence[Mapping[str, float | None]], capabilities: Sequence[Capability]
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Cheapest costs before and after every position of a program.

    Returns:
        ``before[i]``: milliseconds of the first ``i`` operators when the device is then the ANE,
        the CPU. ``after[i]``: milliseconds of the operators from ``i`` on, return to the host
        included, when the device just before them is the ANE, the CPU.
    """
    fee = switch_ms()
    before = [(_UNREACHABLE, 0.0)]
    for price, able in zip(prices, capabilities, strict=True):
        before.append(_step(before[-1], price, able, fee))
    after = [(fee, 0.0)]
    for price, able in zip(reversed(prices), reversed(capabilities), strict=True):
        ane = price.get("ane") if able.ane else None
        via_ane = _UNREACHABLE if ane is None else ane + after[-1][0]
        via_cpu = cpu_price(price) + after[-1][1]
        after.append((min(via_ane, via_cpu + fee), min(via_ane + fee, via_cpu)))
    return before, after[::-1]


def _step(
    costs: tuple[float, float], price: Mapping[str, float | None], able: Capability, fee: float
) -> tuple[float, float]:
    """Cheapest costs after one more operator, when it runs on the ANE, on the CPU."""
    on_ane, on_cpu = costs
    ane = price.get("ane") if able.ane else None
    return (
        _UNREACHABLE if ane is None else min(on_ane, on_cpu + fee) + ane,
        min(on_ane + fee, on_cpu) + cpu_price(price),
    )
