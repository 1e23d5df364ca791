"""What can go wrong in a pipeline of passes."""

from __future__ import annotations

from frontend.errors import AnePassesError


class PassError(AnePassesError):
    """A pass or a pipeline failed."""


class OrderError(PassError):
    """The passes of a pipeline stand in an order that cannot work."""


class InvariantError(PassError):
    """A pass changed what it must keep: an input, an output, a shape, a dtype or the numbers."""


class LayoutError(PassError):
    """Two fixed layouts contradict each other."""
