"""What stays in float32 from the last layers on: the decoding of boxes, their scores and order.

Scores near one are all alike in float16 (0.9997 and above are 1), so that the better of two boxes
is chance, and a coordinate beyond 256 is off by an eighth. Core ML runs the suppression on the CPU
in any case (*documented*: no Neural Engine kernel is known); what stays in float32 is elementwise
and small.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from coremltools.converters.mil.mil import Block, Operation, Var
from torch import fx

from frontend.ops import nms

_SUPPRESSION = "non_maximum_suppression"
_LAYERS = {"conv", "conv_transpose", "linear", "matmul", "einsum"}
# What stands among layers and never among coordinates.
_WITHIN = {"layer_norm", "batch_norm", "instance_norm", "lstm", "gru", "rnn"}
# A product with so few weights is no layer: YOLO sums the 16 shares of a distance by a convolution.
_FEW_WEIGHTS = 64


def ranks_boxes(graph: fx.Graph) -> bool:
    """Whether a program leaves out boxes that overlap better ones."""
    return any(node.target is nms for node in graph.nodes)


def tail(block: Block, outputs: Iterable[Var]) -> frozenset[str]:
    """Names of the operators between the last layers and ``outputs``, or a suppression of boxes.

    What computes with the boxes that a suppression keeps is among them too.

    Args:
        block: a function's.
        outputs: those of its outputs whose numbers float16 would spoil.
    """
    return frozenset(
        (*_around_suppressions(block), *_before([var.op for var in outputs if var.op]))
    )


def outermost(block: Block) -> Block:
    """The block of the function that ``block`` is in."""
    while block.outer_op is not None:
        block = block.outer_op.enclosing_block
    return block


def _around_suppressions(block: Block) -> Iterator[str]:
    after: set[str] = set()
    for op in block.operations:
        if op.op_type == _SUPPRESSION:
            yield from _before([op])
        if op.op_type == _SUPPRESSION or any(var.op.name in after for var in _read(op)):
            after.add(op.name)
    yield from after


def _before(ends: Iterable[Operation]) -> Iterator[str]:
    """``ends`` and what computes for them, back to the layers, which are not among it."""
    wanted = [op for op in ends if not _is_layer(op)]
    seen = {op.name for op in wanted}
    yield from seen
    while wanted:
        for var in _read(wanted.pop()):
            if var.op.name not in seen and not _is_layer(var.op):
                seen.add(var.op.name)
                wanted.append(var.op)
                yield var.op.name


def _is_layer(op: Operation) -> bool:
    if op.op_type in _WITHIN:
        return True
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
