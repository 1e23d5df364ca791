"""Errors of export and generation."""

from __future__ import annotations

from collections.abc import Sequence

from frontend.errors import AnePassesError


class GenerationError(AnePassesError):
    """A decoder cannot be exported as asked, or a package cannot be driven as asked."""


class ContextError(GenerationError):
    """More tokens than the cache has room for.

    Attributes:
        tokens: what was generated before, empty where nothing was.
    """

    tokens: Sequence[int] = ()
