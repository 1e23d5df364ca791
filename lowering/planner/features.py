"""What a placed program asks of the device: the input of the latency model."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lowering.planner.facts import OpFacts
from lowering.planner.products import PRODUCTS, is_activation_product, product_flops, spelled_out

# *Assumed*: what one CPU core complex sustains in a Core ML program.
_CPU_GFLOPS = 656.0
_CPU_GB_S = 60.0
_CORES = 16
_NOTCH_PERIOD = 2**20
_NOTCH_WIDTH = 2**14
# Operators that only rename elements.
_VIEWS = frozenset({"reshape", "squeeze", "expand_dims", "identity", "flatten2d"})
# Functions that are applied while the result of a matrix operator is written out.
_FUSED = frozenset(
    {"relu", "relu6", "leaky_relu", "sigmoid", "silu", "tanh", "batch_norm", "clip", "sigmoid_hard"}
)
# What masks and scales attention scores.
_ON_SCORES = frozenset({"add", "sub", "mul", "real_div", "select"})


@dataclass(frozen=True)
class Layers:
    """Products with weights, of equal size: projections, whether convolution or linear.

    Attributes:
        flops: operations of one, two per multiply-add.
        weight_bytes: bytes of its weights as stored.
        elements: elements of its output.
        palette_loads: weights divided by the output channels that share a palette; 0 without one.
        notched_bytes: weight bytes that hit the DMA notch, see ``_notched``.
        count: how many there are.
    """

    flops: float
    weight_bytes: float
    elements: float
    palette_loads: float = 0.0
    notched_bytes: float = 0.0
    count: int = 1


@dataclass(frozen=True)
class Traffic:
    """Attention scores and their like, of one size, that operators read or write.

    Projections stream their tensors while they compute, and pointwise operators work on what
    streams past; a product of two activations and a softmax need whole tiles.

    Attributes:
        tile_bytes: bytes of one of them.
        bytes: bytes of all of them, each counted once for every operator that touches it.
    """

    tile_bytes: float
    bytes: float


@dataclass(frozen=True)
class Features:
    """What a program asks of the device.

    Attributes:
        layers: its products with weights on the ANE.
        product_flops: operations of its products of two activations, as in attention.
        elements: output elements of all other operators on the ANE.
        traffic: what its products of activations and softmaxes touch, by size; what is too large
            to stay on the chip is written to memory and read again.
        segments: runs of operators on the ANE, over all programs where there are several.
        cpu_ms: work left on the CPU, milliseconds.
        int8: the matrix operators multiply int8 by int8.
    """

    layers: tuple[Layers, ...]
    product_flops: float
    elements: float
    traffic: tuple[Traffic, ...]
    segments: int = 1
    cpu_ms: float = 0.0
    int8: bool = False

    @property
    def flops(self) -> float:
        """Operations of all products."""
        return self.product_flops + sum(layer.flops * layer.count for layer in self.layers)

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights."""
        return sum(layer.weight_bytes * layer.count for layer in self.layers)

    def spilled_bytes(self, on_chip_bytes: float) -> float:
        """Bytes written to and read from memory where ``on_chip_bytes`` stay on the chip.

        A tensor stays if two of its size do: what an operator reads, and what it makes of it
        (*measured*: attention scores of 1500 x 1500 fp16, 4.5 MB, cost traffic beside 4.7 MB).
        """
        return sum(t.bytes for t in self.traffic if 2 * t.tile_bytes > on_chip_bytes)

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``Features.from_json`` reads them back."""
        return {
            "layers": [list(vars(layer).values()) for layer in self.layers],
            "product_flops": self.product_flops,
            "elements": self.elements,
            "traffic": [[tile.tile_bytes, tile.bytes] for tile in self.traffic],
            "segments": self.segments,
            "cpu_ms": self.cpu_ms,
            "int8": self.int8,
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Features:
        """The features that ``to_json`` wrote."""
        layers = tuple(Layers(*entry) for entry in raw["layers"])
        traffic = tuple(Traffic(*entry) for entry in raw["traffic"])
        return cls(**{**raw, "layers": layers, "traffic": traffic})


def features_of(ops: Sequence[OpFacts], devices: Sequence[str]) -> Features:
    """What ``ops`` ask of the device when they run on ``devices``."""
    counted = _Counted()
    segments, before, cpu_ms = 0, "cpu", 0.0
    for facts, device in zip(ops, devices, strict=True):
        segments += device == "ane" and before != "ane"
        before = device
        for part in spelled_out(facts):
            if device == "ane":
                counted.add(part)
            else:
                cpu_ms += _cpu_ms(part)
                counted.after_product = False
    return counted.features(segments, cpu_ms)


class _Counted:
    """The operators on the ANE so far."""

    def __init__(self) -> None:
        self.layers: Counter[Layers] = Counter()
        self.traffic: dict[float, float] = defaultdict(float)
        self.product_flops = self.elements = 0.0
        self.after_product = self.on_scores = self.int8 = False

    def add(self, facts: OpFacts) -> None:
        if facts.op_type in _VIEWS:
            return
        is_product = facts.op_type in PRODUCTS
        between = is_product and is_activation_product(facts)
        if between:
            self.product_flops += product_flops(facts)
        elif is_product:
            self.layers[_layer(facts)] += 1
        fused = self.after_product and facts.op_type in _FUSED and len(facts.runtime) == 1
        self.after_product = is_product or fused
        self.int8 = self.int8 or facts.op_type == "quantize"
        if not is_product and not fused:
            self.elements += facts.output.elements
        # What stands between a product of activations and its softmax works on the scores.
        self.on_scores = between or (self.on_scores and facts.op_type in _ON_SCORES)
        if self.on_scores or facts.op_type == "softmax":
            for tensor in (*facts.runtime, facts.output):
                self.traffic[tensor.bytes] += tensor.bytes

    def features(self, segments: int, cpu_ms: float) -> Features:
        return Features(
            tuple(replace(layer, count=count) for layer, count in self.layers.items()),
            self.product_flops,
            self.elements,
            tuple(Traffic(tile, total) for tile, total in sorted(self.traffic.items()) if total),
            segments,
            cpu_ms,
            self.int8,
        )


def _layer(facts: OpFacts) -> Layers:
    stored = weight_bytes(facts)
    dense = facts.weight is not None and stored >= facts.weight.bytes
    return Layers(
        product_flops(facts),
        stored,
        float(facts.output.elements),
        float(facts.attributes.get("palette_loads", 0.0)),
        stored if dense and facts.weight is not None and is_notched(facts.weight.shape) else 0.0,
    )


def is_notched(weight: tuple[int, ...]) -> bool:
    """Whether a dense fp16 weight ``(out, in, *kernel)`` streams at half the speed on an M4.

    *Measured* (kasper0406/stablehlo-coreml pull request 110, M4): each of the 16 cores reads its
    share of the output channels, and shares within 16 KiB of a multiple of 1 MiB are slow.
    """
    share = -(-weight[0] // _CORES) * math.prod(weight[1:]) * 2
    distance = min(share % _NOTCH_PERIOD, _NOTCH_PERIOD - share % _NOTCH_PERIOD)
    return share >= _NOTCH_PERIOD - _NOTCH_WIDTH and distance < _NOTCH_WIDTH


def weight_bytes(facts: OpFacts) -> float:
    """Bytes of constants a matrix operator streams, as the package stores them."""
    stored = facts.attributes.get("stored_bytes")
    if stored is not None:
        return float(stored)
    return sum(tensor.bytes for tensor in facts.operands if tensor.const)


def _cpu_ms(facts: OpFacts) -> float:
    if facts.op_type in _VIEWS:
        return 0.0
    work = product_flops(facts) if facts.op_type in PRODUCTS else float(facts.output.elements)
    # A gather touches the rows it takes, whatever the dispatcher charges for its table.
    touched = sum(tensor.bytes for tensor in facts.runtime) + facts.output.bytes
    if facts.op_type in PRODUCTS:
        touched += weight_bytes(facts)
    return max(work / _CPU_GFLOPS / 1e9, touched / _CPU_GB_S / 1e9) * 1e3
