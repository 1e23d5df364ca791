"""What a converted package is made of: MIL operators, layout operators, ranks, bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lowering.package.open import ModelLike, open_package
from lowering.planner.figures import padding_of
from lowering.planner.mil import ReadProgram, read_program

_LAYOUT = ("transpose", "reshape", "expand_dims", "squeeze", "split", "concat", "slice_by_index")


@dataclass(frozen=True)
class MilStats:
    """Counts over the non-constant operators of a program, those of nested blocks included.

    Attributes:
        ops: number of operators.
        by_type: MIL operator type to count, most frequent first.
        not_rank4: operators whose first output is no rank-4 tensor.
        activation_bytes: first outputs of all operators together, unpadded.
        padded_bytes: the same with the last axis padded to 64 bytes, as the ANE stores it.
        largest_bytes: the largest single first output, unpadded.
    """

    ops: int
    by_type: Mapping[str, int]
    not_rank4: int
    activation_bytes: int
    padded_bytes: int
    largest_bytes: int

    def count(self, op_type: str) -> int:
        """Operators of one type."""
        return self.by_type.get(op_type, 0)

    def layout(self) -> dict[str, int]:
        """Counts of the operators that only move data."""
        return {op_type: self.count(op_type) for op_type in _LAYOUT}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**vars(self), "by_type": dict(self.by_type)}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> MilStats:
        """The statistics that ``to_json`` wrote."""
        return replace(cls(**raw), by_type=dict(raw["by_type"]))


def mil_stats(model: ModelLike | ReadProgram) -> MilStats:
    """Statistics of an ``MLModel``, the path of a ``.mlpackage``, or a MIL program.

    Sizes not known before the program runs count as one.

    Raises:
        PackageError: there is no ML Program in ``model``.
    """
    program = model if isinstance(model, ReadProgram) else read_program(model)
    outputs = [op.facts.output for op in program.ops if op.facts.outputs]
    return MilStats(
        ops=len(program.ops),
        by_type=dict(Counter(op.facts.op_type for op in program.ops).most_common()),
        not_rank4=sum(len(output.shape) != 4 for output in outputs),
        activation_bytes=round(sum(output.bytes for output in outputs)),
        padded_bytes=round(sum(output.bytes * (1 + padding_of(output)) for output in outputs)),
        largest_bytes=round(max((output.bytes for output in outputs), default=0)),
    )


def weight_bytes(model: ModelLike) -> int:
    """Bytes of the weight files of a model or a ``.mlpackage``, as stored.

    Raises:
        PackageError: there is no ML Program in ``model``.
    """
    return open_package(model).weights.stored_bytes()
