"""What a placed program asks of the device: the input of the latency model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lowering.planner.facts import OpFacts
from lowering.planner.figures import ON_CHIP_BYTES
from lowering.planner.work import contraction

# *Assumed*: what one CPU core complex sustains in a Core ML program.
_CPU_GFLOPS = 656.0
_CPU_GB_S = 60.0
_CORES = 16
_NOTCH_PERIOD = 2**20
_NOTCH_WIDTH = 2**14
# Operators that only rename elements.
_VIEWS = frozenset({"reshape", "squeeze", "expand_dims", "identity", "flatten2d"})
_STREAMED = frozenset({"conv", "conv_transpose", "linear"})
_MATRIX = _STREAMED | {"matmul"}
# Functions that are applied while the result of a matrix operator is written out.
_FUSED = frozenset(
    {"relu", "relu6", "leaky_relu", "sigmoid", "silu", "tanh", "batch_norm", "clip", "sigmoid_hard"}
)


@dataclass(frozen=True)
class Layers:
    """Matrix operators of equal size.

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
class Features:
    """What a program asks of the device.

    Attributes:
        layers: its matrix operators on the ANE.
        elements: output elements of all other operators on the ANE.
        spill_bytes: bytes of intermediates that do not fit on the chip, written and read.
            Convolutions and linears stream theirs while they compute, and have none.
        segments: runs of operators on the ANE.
        cpu_ms: work left on the CPU, milliseconds.
        int8: the matrix operators multiply int8 by int8.
    """

    layers: tuple[Layers, ...]
    elements: float
    spill_bytes: float
    segments: int = 1
    cpu_ms: float = 0.0
    int8: bool = False

    @property
    def flops(self) -> float:
        """Operations of all matrix operators."""
        return sum(layer.flops * layer.count for layer in self.layers)

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights."""
        return sum(layer.weight_bytes * layer.count for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``Features.from_json`` reads them back."""
        return {
            "layers": [list(vars(layer).values()) for layer in self.layers],
            "elements": self.elements,
            "spill_bytes": self.spill_bytes,
            "segments": self.segments,
            "cpu_ms": self.cpu_ms,
            "int8": self.int8,
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Features:
        """The features that ``to_json`` wrote."""
        layers = tuple(Layers(*entry) for entry in raw["layers"])
        return cls(**{**raw, "layers": layers})


def features_of(ops: Sequence[OpFacts], devices: Sequence[str]) -> Features:
    """What ``ops`` ask of the device when they run on ``devices``."""
    layers: Counter[Layers] = Counter()
    elements = spills = cpu_ms = 0.0
    segments, before = 0, "cpu"
    after_matrix = int8 = False
    for facts, device in zip(ops, devices, strict=True):
        segments += device == "ane" and before != "ane"
        before = device
        if device != "ane":
            cpu_ms += _cpu_ms(facts)
            after_matrix = False
            continue
        if facts.op_type in _VIEWS:
            continue
        if facts.op_type in _MATRIX:
            layers[_layer(facts)] += 1
        fused = after_matrix and facts.op_type in _FUSED and len(facts.runtime) == 1
        after_matrix = facts.op_type in _MATRIX or fused
        int8 = int8 or facts.op_type == "quantize"
        if facts.op_type not in _MATRIX and not fused:
            elements += facts.output.elements
        if facts.op_type not in _STREAMED and not fused:
            spills += _spilled(facts)
    return Features(
        tuple(replace(layer, count=count) for layer, count in layers.items()),
        elements,
        spills,
        segments,
        cpu_ms,
        int8,
    )


def _layer(facts: OpFacts) -> Layers:
    stored = weight_bytes(facts)
    dense = facts.weight is not None and stored >= facts.weight.bytes
    return Layers(
        matrix_flops(facts),
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


def matrix_flops(facts: OpFacts) -> float:
    """True operations of a matrix operator, two per multiply-add."""
    if facts.op_type in ("matmul", "linear"):
        return 2.0 * facts.output.elements * contraction(facts)
    weight = facts.weight
    if weight is None:
        return 0.0
    if facts.op_type == "conv_transpose":
        return 2.0 * facts.inputs[0].elements * math.prod(weight.shape[1:])
    return 2.0 * facts.output.elements * math.prod(weight.shape[1:])


def weight_bytes(facts: OpFacts) -> float:
    """Bytes of constants a matrix operator streams, as the package stores them."""
    stored = facts.attributes.get("stored_bytes")
    if stored is not None:
        return float(stored)
    return sum(tensor.bytes for tensor in facts.operands if tensor.const)


def _spilled(facts: OpFacts) -> float:
    tensors = (*facts.runtime, facts.output)
    return sum(tensor.bytes for tensor in tensors if tensor.bytes > ON_CHIP_BYTES)


def _cpu_ms(facts: OpFacts) -> float:
    if facts.op_type in _VIEWS:
        return 0.0
    work = matrix_flops(facts) if facts.op_type in _MATRIX else float(facts.output.elements)
    # A gather touches the rows it takes, whatever the dispatcher charges for its table.
    touched = sum(tensor.bytes for tensor in facts.runtime) + facts.output.bytes
    if facts.op_type in _MATRIX:
        touched += weight_bytes(facts)
    return max(work / _CPU_GFLOPS / 1e9, touched / _CPU_GB_S / 1e9) * 1e3
