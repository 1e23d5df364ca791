"""*Predicted* milliseconds on the device; not the dispatcher's price.

    T = host + (ANE segments - 1) * 0.125 + max(compute, streaming, palettes)
        + serial * min(compute, streaming) + elementwise engine + spills + work on the CPU

The rates behind the terms and a factor per chip are fitted on published measurements
(``latency.json``; ``benchmarks.latency_fit`` makes it). A chip without measured rows, of its own
or of a chip with the same ANE, gets no figure at all.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lowering.planner.facts import OpFacts
from lowering.planner.features import Features, features_of
from lowering.planner.targets import chips, load_data

# *Measured* (dispatcher dumps): what the dispatcher itself reckons for one change of device.
SEGMENT_MS = 0.125


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
        compute: share of a chip's published fp16 peak that layers reach.
        streaming: share of a chip's published weight bandwidth that layers reach.
        serial: share of the shorter of compute and streaming that the longer does not hide.
        elements_per_s: elements through the elementwise engine per second.
        spill_bytes_per_s: bytes per second of intermediates that leave the chip.
        palette_loads_per_s: palettes fetched per second, one for each weight and palette group.
    """

    host_ms: float
    compute: float
    streaming: float
    serial: float
    elements_per_s: float
    spill_bytes_per_s: float
    palette_loads_per_s: float

    def terms(self, features: Features, chip: Chip) -> dict[str, float]:
        """Milliseconds of each term."""
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
        streaming = streamed / bandwidth
        matrix = max(compute, streaming, loads / self.palette_loads_per_s)
        matrix += self.serial * min(compute, streaming)
        return {
            "host": self.host_ms,
            "segments": SEGMENT_MS * max(features.segments - 1, 0),
            "layers": matrix * 1e3,
            "elementwise": width * features.elements / self.elements_per_s * 1e3,
            "spills": width * features.spill_bytes / self.spill_bytes_per_s * 1e3,
            "cpu": features.cpu_ms,
        }

    def milliseconds(self, features: Features, chip: Chip) -> float:
        """Predicted milliseconds before the chip's own factor."""
        return sum(self.terms(features, chip).values())


@dataclass(frozen=True)
class Chip:
    """Published speeds of one ANE.

    Attributes:
        fp16_flops: peak operations per second.
        weight_bytes_per_s: bandwidth at which it reads weights.
        int8_speed_up: how much faster int8 by int8 is.
        has_notch: weights of some sizes stream at half the speed.
    """

    fp16_flops: float
    weight_bytes_per_s: float
    int8_speed_up: float
    has_notch: bool


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
    terms = {name: ms * fit["factor"] for name, ms in rates().terms(features, chip).items()}
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
