"""Errors of the lowering layer; each is one clear message for the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from frontend.errors import AnePassesError, InputError


class LoweringError(AnePassesError):
    """A program could not be turned into a Core ML model.

    Attributes:
        node: name of the FX node whose lowering failed, ``""`` where it was none.
    """

    rule = "lowering-failed"
    node = ""


class UnboundedSizeError(LoweringError):
    """A dynamic size of an input has no upper bound."""

    rule = "unbounded-size"


class ComplexError(LoweringError):
    """An input or output is complex."""

    rule = "complex-numbers"


class NumberInputError(LoweringError):
    """An input that the program reads is a Python number."""

    rule = "number-input"


class CompositeError(AnePassesError):
    """A composite is wrong: its definition, or what it computes."""


class PackageError(AnePassesError):
    """What was given is no package, or its weights, manifest or program cannot be read."""


class CoreAIError(AnePassesError):
    """Core AI is not installed, or its runtime gave no result."""


class RungTargetError(InputError):
    """A package is for a version of Core ML that has no form for a rung."""


class CompressionError(AnePassesError):
    """A compressed weight does not decode to what it was; nothing was written."""


class SaveError(AnePassesError):
    """A package could not be written; the destination is as it was before."""


class ModelLoadError(AnePassesError):
    """A command-line MODEL could not be loaded."""


@dataclass(frozen=True)
class Unsupported:
    """One operator of a program that cannot be lowered.

    Attributes:
        op: torch's name of the operator, such as ``aten.foo.default``.
        reason: why it cannot be lowered.
        hint: the next step for the user, ``""`` when there is none.
        places: ``module · file.py:41 code`` of each occurrence, in program order.
    """

    op: str
    reason: str
    hint: str
    places: tuple[str, ...]


class UnsupportedOpsError(LoweringError):
    """Every operator of the program that has no lowering, at once.

    Attributes:
        unsupported: one entry for each operator.
    """

    rule = "unsupported-op"
    # Enough to find each kind of use; a 48-layer model repeats the rest.
    MAX_PLACES = 4

    def __init__(self, unsupported: Sequence[Unsupported], format: str = "Core ML") -> None:
        self.unsupported = tuple(unsupported)
        count = len(self.unsupported)
        lines = [f"{count} operator(s) of the program cannot be lowered to {format}"]
        for entry in self.unsupported:
            lines.append(f"  {entry.op} × {len(entry.places)}: {entry.reason}")
            shown = dict.fromkeys(entry.places)
            lines += [f"    at {place}" for place in list(shown)[: self.MAX_PLACES]]
            if len(shown) > self.MAX_PLACES:
                lines.append(f"    and {len(shown) - self.MAX_PLACES} more places")
            if entry.hint:
                lines.append(f"    next step: {entry.hint}")
        super().__init__("\n".join(lines))

    def to_json(self) -> dict[str, object]:  # type: ignore[override]
        """The base fields, and ``unsupported``: one dictionary for each operator."""
        entries = [
            {
                "op": entry.op,
                "count": len(entry.places),
                "reason": entry.reason,
                "hint": entry.hint,
                "places": list(entry.places),
            }
            for entry in self.unsupported
        ]
        return {**super().to_json(), "unsupported": entries}
