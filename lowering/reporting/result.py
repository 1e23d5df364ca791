"""What a report says: plain values that every format is written from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from frontend.errors import AnePassesError
from lowering.ablation.result import Ablation
from lowering.compression.ladder_result import Ladder
from lowering.planner.result import Plan
from lowering.reporting.accuracy import Accuracy
from lowering.reporting.block import RepeatedBlock
from lowering.verification.looks import PictureLook


class ReportError(AnePassesError):
    """A report could not be made or written."""


@dataclass(frozen=True)
class PassCount:
    """What one pass did, as the package records it.

    Attributes:
        name: the pass.
        rewrites: places rewritten.
        declined: places left alone.
        reasons: why, each with how many places; empty unless the passes were repeated.
        notes: sentences of the pass; empty unless the passes were repeated.
    """

    name: str
    rewrites: int
    declined: int
    reasons: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        reasons = [{"reason": reason, "places": places} for reason, places in self.reasons]
        return {**vars(self), "reasons": reasons, "notes": list(self.notes)}


@dataclass(frozen=True)
class PackageFacts:
    """The package as a file.

    Attributes:
        name: file name.
        bytes: size of all its files.
        versions: of ane-passes, torch and coremltools that made it; empty when it does not say.
        passes: the passes it was made with, in order.
    """

    name: str
    bytes: int
    versions: Mapping[str, str]
    passes: tuple[PassCount, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **vars(self),
            "versions": dict(self.versions),
            "passes": [entry.to_json() for entry in self.passes],
        }


@dataclass(frozen=True)
class Report:
    """Everything that is known of one package.

    Attributes:
        package: the file.
        plan: where it is *predicted* to run.
        edges: data flow, pairs of indices into ``plan.ops`` (who makes a value, who reads it).
        input_shapes: for each of ``plan.ops``, shapes of what it reads while the program runs.
        block: the repeated module, ``None`` where nothing repeats.
        accuracy: how far its values are from the original's, *measured* in the interpreter;
            ``None`` without an original.
        ablation: what ``ane-passes ablate`` wrote, ``None`` when it was not given.
        ladder: what ``ane-passes compress --ladder`` wrote, likewise.
    """

    package: PackageFacts
    plan: Plan
    edges: tuple[tuple[int, int], ...]
    input_shapes: tuple[tuple[tuple[int, ...], ...], ...]
    block: RepeatedBlock | None = None
    accuracy: Accuracy | None = None
    ablation: Ablation | None = None
    ladder: Ladder | None = None

    @property
    def pictures(self) -> tuple[PictureLook, ...]:
        """What torch and the package make of pictures; empty for models of numbers."""
        return () if self.accuracy is None else self.accuracy.outputs.pictures

    @property
    def not_rank4(self) -> int:
        """Operators whose first output has another rank than 4, the ANE's own."""
        return sum(op.figures.rank != 4 for op in self.plan.ops)

    def count(self, *op_types: str) -> int:
        """Operators of these MIL types."""
        return sum(op.op_type in op_types for op in self.plan.ops)

    def to_json(self) -> dict[str, Any]:
        """Plain values; parts that are unknown are ``null``."""
        return {
            "package": self.package.to_json(),
            "plan": self.plan.to_json(),
            "edges": [list(edge) for edge in self.edges],
            "input_shapes": [[list(shape) for shape in shapes] for shapes in self.input_shapes],
            "block": None if self.block is None else self.block.to_json(),
            "accuracy": None if self.accuracy is None else self.accuracy.to_json(),
            "ablation": None if self.ablation is None else self.ablation.to_json(),
            "ladder": None if self.ladder is None else self.ladder.to_json(),
        }
