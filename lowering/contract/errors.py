"""What is wrong with a contract, all of it at once."""

from __future__ import annotations

from collections.abc import Sequence

from frontend.errors import AnePassesError


class ContractError(AnePassesError):
    """A contract cannot be read, or does not fit its program, its package or what is asked of it.

    Attributes:
        problems: one sentence for each.
    """

    def __init__(
        self,
        message: str,
        problems: Sequence[str] = (),
        *,
        found: str | None = None,
        hint: str = "",
    ) -> None:
        self.problems = tuple(problems)
        listed = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(message + listed, found=found, hint=hint or None)


class SoundError(AnePassesError):
    """A sound cannot be read, or is not of the form that a model takes."""


class PictureError(AnePassesError):
    """A picture cannot be read, or cannot be brought into the form that a model takes."""
