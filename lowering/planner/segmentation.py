"""Which device the dispatcher gives each operator to: a shortest path with a price per switch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lowering.planner.capabilities import Capability
from lowering.planner.prices import switch_ms

DEVICES = ("ane", "cpu")
# Sums of prices in a different order differ in the last bits; closer than this is a tie.
_TIE_MS = 1e-9


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
            ane = price["ane"]
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
    # Cheapest cost of the operators so far when the last one ran on each device.
    on_ane, on_cpu = float("inf"), 0.0
    came_from: list[tuple[bool, bool]] = []
    for price, able in zip(prices, capabilities, strict=True):
        ane = price["ane"] if able.ane else None
        ane_after_ane = on_ane <= on_cpu + fee + _TIE_MS
        cpu_after_ane = on_ane + fee <= on_cpu + _TIE_MS
        came_from.append((ane_after_ane, cpu_after_ane))
        best_for_ane = on_ane if ane_after_ane else on_cpu + fee
        best_for_cpu = on_ane + fee if cpu_after_ane else on_cpu
        on_ane = float("inf") if ane is None else best_for_ane + ane
        on_cpu = best_for_cpu + cpu_price(price)
    devices: list[str] = []
    current_is_ane = on_ane + fee <= on_cpu + _TIE_MS
    for ane_after_ane, cpu_after_ane in reversed(came_from):
        devices.append("ane" if current_is_ane else "cpu")
        current_is_ane = ane_after_ane if current_is_ane else cpu_after_ane
    return devices[::-1]
