"""What can go wrong when a package is loaded or run, each as one clear error."""

from __future__ import annotations

from frontend.errors import AnePassesError


class UnknownOpsError(AnePassesError):
    """The program holds ops that the interpreter has no semantics for; all are listed at once."""


class ExecutionError(AnePassesError):
    """An op of the program could not be executed on the values it got."""
