"""Float16 but for what decides which boxes are kept: their decoding, scores and order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from coremltools.converters.mil.mil import Block, Operation, Var
from coremltools.converters.mil.mil.passes.defs.quantization import FP16ComputePrecision
from torch import fx

from frontend.ops import nms

_SUPPRESSION = "non_maximum_suppression"
_LAYERS = {"conv", "conv_transpose", "linear", "matmul", "einsum"}
# A product with so few weights is no layer: YOLO sums the 16 shares of a distance by a convolution.
_FEW_WEIGHTS = 64


def ranks_boxes(graph: fx.Graph) -> bool:
    """Whether a program leaves out boxes that overlap better ones."""
    return any(node.target is nms for node in graph.nodes)


class RankingPrecision(FP16ComputePrecision):
    """Float16, but float32 from the last layers to the boxes that are kept.

    Scores near one are all alike in float16 (0.9997 and above are 1), so that the better of two
    boxes is chance, and a coordinate beyond 256 is off by an eighth. Core ML runs the suppression
    on the CPU in any case (*documented*: no Neural Engine kernel is known); what stays in float32
    is elementwise and small.
    """

    def __init__(self) -> None:
        super().__init__(op_selector=self._is_cast)
        self._kept: frozenset[str] | None = None

    def _is_cast(self, op: Operation) -> bool:
        if self._kept is None:
            self._kept = frozenset(_names(_outermost(op.enclosing_block)))
        return op.name not in self._kept


def _names(block: Block) -> Iterator[str]:
    """Operators between the last layers and the outputs of each suppression."""
    after: set[str] = set()
    for op in block.operations:
        if op.op_type == _SUPPRESSION:
            yield from _before(op)
        if op.op_type == _SUPPRESSION or any(var.op.name in after for var in _read(op)):
            after.add(op.name)
    yield from after


def _before(suppression: Operation) -> Iterator[str]:
    """What computes boxes and scores, back to the layers, which are not among it."""
    wanted, seen = [suppression], {suppression.name}
    while wanted:
        for var in _read(wanted.pop()):
            if var.op.name not in seen and not _is_layer(var.op):
                seen.add(var.op.name)
                wanted.append(var.op)
                yield var.op.name


def _is_layer(op: Operation) -> bool:
    if op.op_type not in _LAYERS:
        return False
    weights = [var.val for var in _inputs(op) if isinstance(var.val, np.ndarray)]
    return not weights or max(weight.size for weight in weights) > _FEW_WEIGHTS


def _read(op: Operation) -> Iterator[Var]:
    """Values that other operators compute."""
    return (var for var in _inputs(op) if var.op is not None and var.op.op_type != "const")


def _inputs(op: Operation) -> Iterator[Var]:
    for value in op.inputs.values():
        yield from value if isinstance(value, list | tuple) else [value]


def _outermost(block: Block) -> Block:
    while block.outer_op is not None:
        block = block.outer_op.enclosing_block
    return block
