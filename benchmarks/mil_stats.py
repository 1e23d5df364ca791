"""What a converted package is made of: MIL operators, layout operators, ranks, bytes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

# The ANE pads the last axis of a tensor to this (documented: Apple, "Deploying Transformers on
# the Apple Neural Engine").
ALIGNMENT_BYTES = 64
_FP16_BYTES = 2
_LAYOUT = ("transpose", "reshape", "expand_dims", "squeeze", "split", "concat", "slice_by_index")


@dataclass(frozen=True)
class MilStats:
    """Counts over the non-constant operators of a program.

    Attributes:
        ops: number of operators.
        by_type: MIL operator type to count.
        not_rank4: operators whose first output is no rank-4 tensor.
        megabytes: sum of all outputs as fp16, unpadded, in 10^6 bytes.
        padded_ratio: the same with the last axis padded to 64 bytes, over unpadded.
        largest_megabytes: the largest single output.
    """

    ops: int
    by_type: dict[str, int]
    not_rank4: int
    megabytes: float
    padded_ratio: float
    largest_megabytes: float

    def count(self, op_type: str) -> int:
        """Operators of one type."""
        return self.by_type.get(op_type, 0)

    def layout(self) -> dict[str, int]:
        """Counts of the operators that only move data."""
        return {op_type: self.count(op_type) for op_type in _LAYOUT}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def mil_stats(model: Any) -> MilStats:
    """Statistics of a converted ``MLModel`` that still has its MIL program."""
    ops = list(_operators(model._mil_program.functions["main"]))
    outputs = [op.outputs[0] for op in ops if op.outputs and hasattr(op.outputs[0], "shape")]
    sizes = [_bytes(value.shape) for value in outputs]
    padded = [_bytes(value.shape, pad=True) for value in outputs]
    return MilStats(
        ops=len(ops),
        by_type=dict(Counter(op.op_type for op in ops)),
        not_rank4=sum(1 for value in outputs if len(value.shape) != 4),
        megabytes=sum(sizes) / 1e6,
        padded_ratio=sum(padded) / max(sum(sizes), 1),
        largest_megabytes=max(sizes, default=0) / 1e6,
    )


def _operators(block: Any) -> Iterator[Any]:
    for op in block.operations:
        if op.op_type != "const" and not op.op_type.startswith("constexpr"):
            yield op
            for inner in op.blocks:
                yield from _operators(inner)


def _bytes(shape: Any, *, pad: bool = False) -> int:
    # A symbolic size counts as one: ratios are what is compared.
    sizes = [int(n) if str(n).isdigit() else 1 for n in shape]
    if pad and sizes:
        step = ALIGNMENT_BYTES // _FP16_BYTES
        sizes[-1] = -(-sizes[-1] // step) * step
    return math.prod(sizes) * _FP16_BYTES
