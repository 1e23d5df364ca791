"""*Predicted* milliseconds on the device; not the dispatcher's price.

    T = host + (ANE regions - 1) * region + max(projections, weights, palettes)
        + products of activations + elementwise engine + score traffic + work on the CPU

Projections cost the same as convolution and as linear (*measured*: five pairs that differ in
nothing else are within 2 %, john-rocky/CoreML-LLM, 2026-04-26); that a convolution's *price* is
5.3 times lower is the dispatcher's estimate, by which it decides placement. There is no cost per
operator (*measured*: 119 operators of 4,435 less change nothing, same source, 2026-04-24).

The rates behind the terms and factors per generation and chip are fitted on published measurements
(``latency.json``; ``benchmarks.latency_fit`` makes it). A chip without measured rows, of its own
or of a chip with the same ANE, gets no figure at all.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lowering.planner.facts import OpFacts
from lowering.planner.features import Features, features_of
from lowering.planner.targets import chips, load_data

# What the predicted time of an operator does not rest on.
_NO_EVIDENCE = {
    "scaled_dot_product_attention": "no published time of native attention through Core ML on the "
    "ANE is known: its products and its softmax are counted",
    "einsum": "no published measurement changes einsum and matmul alone: they count as one work",
}
_PROJECTIONS = (
    "price and time differ on projections: Core ML's dispatcher prices a linear at up to 5.3 times "
    "a 1x1 convolution, which decides placement; their times were measured equal"
)


@dataclass(frozen=True)
class Latency:
    """A predicted time.

    Attributes:
        ms: milliseconds per call, warm.
        low: lower end of the interval.
        high: upper end of the interval; it covers ``coverage`` of the measured rows.
        coverage: share of left-out measurements within their intervals, 0 to 1.
        terms: milliseconds of each term of the formula.
    """

    ms: float
    low: float
    high: float
    coverage: float
    terms: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": "predicted", **vars(self), "terms": dict(self.terms)}


@dataclass(frozen=True)
class Rates:
    """The fitted rates, all *measured* through published latencies.

    Attributes:
        host_ms: fixed time of a call, milliseconds.
        region_ms: each further run of operators on the ANE, in one program or the next one.
        compute: share of a chip's published fp16 peak that projections reach.
        products: share of that again which products of two activations reach.
        streaming: share of a chip's published weight bandwidth that weights reach.
        elements_per_s: elements through the elementwise engine per second.
        traffic_bytes_per_s: bytes per second of scores that do not stay on the chip.
        palette_loads_per_s: palettes fetched per second, one for each weight and palette group.
    """

    host_ms: float
    region_ms: float
    compute: float
    products: float
    streaming: float
    elements_per_s: float
    traffic_bytes_per_s: float
    palette_loads_per_s: float

    def terms(self, features: Features, chip: Chip, traffic: float = 1.0) -> dict[str, float]:
        """Milliseconds of each term.

        Args:
            features: what the program asks for.
            chip: the chip's published speeds.
            traffic: how much faster than ``traffic_bytes_per_s`` the generation's memory is.
        """
        speed_up = chip.int8_speed_up if features.int8 else 1.0
        peak = self.compute * chip.fp16_flops * speed_up
        bandwidth = self.streaming * chip.weight_bytes_per_s
        # int8 activations halve what the elementwise engine and the memory carry.
        width = 0.5 if features.int8 else 1.0
        compute = streamed = loads = 0.0
        for layer in features.layers:
            output = width * layer.elements / self.elements_per_s
            compute += layer.count * max(layer.flops / peak, output)
            streamed += layer.count * layer.weight_bytes
            streamed += layer.count * layer.notched_bytes if chip.has_notch else 0.0
            loads += layer.count * layer.palette_loads
        projections = max(compute, streamed / bandwidth, loads / self.palette_loads_per_s)
        scores = features.spilled_bytes(chip.on_chip_bytes)
        return {
            "host": self.host_ms,
            "regions": self.region_ms * max(features.segments - 1, 0),
            "projections": projections * 1e3,
            "products": features.product_flops / (self.products * peak) * 1e3,
            "elementwise": width * features.elements / self.elements_per_s * 1e3,
            "scores": width * scores / (traffic * self.traffic_bytes_per_s) * 1e3,
            "cpu": features.cpu_ms,
        }

    def milliseconds(self, features: Features, chip: Chip, traffic: float = 1.0) -> float:
        """Predicted milliseconds before the chip's own factor."""
        return sum(self.terms(features, chip, traffic).values())


@dataclass(frozen=True)
class Chip:
    """Published speeds of one ANE.

    Attributes:
        fp16_flops: peak operations per second.
        weight_bytes_per_s: bandwidth at which it reads weights.
        int8_speed_up: how much faster int8 by int8 is.
        has_notch: weights of some sizes stream at half the speed.
        on_chip_bytes: intermediates up to this size together stay on the chip.
    """

    fp16_flops: float
    weight_bytes_per_s: float
    int8_speed_up: float
    has_notch: bool
    on_chip_bytes: float


def chip_speeds(name: str) -> Chip | None:
    """Speeds of ``name`` for the formula, ``None`` when they are not known."""
    speeds = chips()[name].get("latency")
    if speeds is None:
        return None
    return Chip(
        speeds["fp16_tflops"] * 1e12,
        speeds["weight_gb_s"] * 1e9,
        speeds["int8_speed_up"],
        speeds.get("has_notch", False),
        speeds["on_chip_mb"] * 1e6,
    )


@functools.cache
def fitted() -> dict[str, Any]:
    """The fit: ``latency.json``."""
    return load_data("latency.json")


def rates() -> Rates:
    """The fitted rates."""
    return Rates(**fitted()["rates"])


def predict_features(features: Features, chip_name: str) -> Latency | None:
    """Predicted time of ``features`` on a chip, ``None`` when no measurement backs it."""
    fit = fitted()["chips"].get(chip_name)
    chip = chip_speeds(chip_name)
    if fit is None or chip is None:
        return None
    found = rates().terms(features, chip, fit["traffic"])
    terms = {name: ms * fit["factor"] for name, ms in found.items()}
    ms = sum(terms.values())
    spread = fit["interval_factor"]
    return Latency(ms, ms / spread, ms * spread, fitted()["coverage"], terms)


def predict_latency(
    ops: Sequence[OpFacts], devices: Sequence[str], chip_name: str | None
) -> tuple[Latency | None, str]:
    """Predicted time of a placed program, and what it rests on or why it is unknown."""
    if chip_name is None:
        return None, "unknown: a compiler platform was given, not a chip"
    if not any(device == "ane" for device in devices):
        return None, "unknown: nothing runs on the ANE; CPU time is not modelled"
    latency = predict_features(features_of(ops, devices), chip_name)
    if latency is None:
        return None, f"unknown: no measured latency of a whole program on {chip_name} backs it"
    fit = fitted()["chips"][chip_name]
    if not fit["rows"]:
        kin = ", ".join(fit["from"])
        return latency, f"from measured programs of {kin}, whose ANE is the same generation"
    note = (
        f"fitted on {fit['rows']} measured programs of {chip_name}; left out one by one, their "
        f"median error is {fit['median_error']:.0%}"
    )
    return latency, note


def evidence_notes(op_types: Collection[str]) -> list[str]:
    """What to keep in mind where price and time of these operators stand side by side."""
    notes = [_PROJECTIONS] if "linear" in op_types else []
    return [*notes, *(text for op_type, text in _NO_EVIDENCE.items() if op_type in op_types)]
