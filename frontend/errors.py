"""The error every layer raises for what a user can put right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class AnePassesError(Exception):
    """One clear message: what happened, where, what was expected and found, and the next step.

    Args:
        message: what happened, a sentence without a full stop.
        op: the operator it happened at, as torch or MIL spells it.
        module: the module path, such as ``encoder.layer.0.attention``.
        source: the user's source line, such as ``model.py:41 return self.q(x)``.
        expected: what was expected there.
        found: what was found instead.
        hint: the next step for the user.
        file: the file, package or MODEL that it is about.

    Attributes:
        rule: of preflight that explains errors of this class at length, ``""`` where none does.
    """

    rule: ClassVar[str] = ""

    def __init__(
        self,
        message: str,
        *,
        op: str | None = None,
        module: str | None = None,
        source: str | None = None,
        expected: str | None = None,
        found: str | None = None,
        hint: str | None = None,
        file: str | None = None,
    ) -> None:
        self.message = message
        self.details = {
            "file": file,
            "op": op,
            "module": module,
            "source": source,
            "expected": expected,
            "found": found,
            "next step": hint,
        }
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.message]
        lines += [f"  {label}: {text}" for label, text in self.details.items() if text]
        return "\n".join(lines)

    def to_json(self) -> dict[str, str]:
        """The same as a flat dictionary: ``error``, ``message``, ``rule`` and details, if set."""
        rule = {"rule": self.rule} if self.rule else {}
        found = {key.replace(" ", "_"): text for key, text in self.details.items() if text}
        return {"error": type(self).__name__, "message": self.message, **rule, **found}


def message_of(error: BaseException) -> str:
    """The message of any error, ``""`` where it cannot say one: users write errors of their own."""
    try:
        return str(error)
    except Exception:
        return ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its kind where it has none."""
    return (message_of(error).splitlines() or [""])[0].strip() or type(error).__name__


def kind_and_line(error: BaseException) -> str:
    """``ValueError: the first line``, or the kind alone."""
    kind, line = type(error).__name__, first_line(error)
    return kind if line == kind else f"{kind}: {line}"


@contextmanager
def about(file: str, hint: str | None = None) -> Iterator[None]:
    """Errors of the block name ``file``, and ``hint`` as the next step, unless they name their own.

    Code deep inside does not know what it reads; who opened it does.
    """
    try:
        yield
    except AnePassesError as error:
        if file not in str(error):
            error.details["file"] = file
        error.details["next step"] = error.details["next step"] or hint
        raise


class CaptureError(AnePassesError):
    """The model could not be captured as a graph."""

    rule = "capture-failed"


class ProgramFileError(AnePassesError):
    """A saved program could not be loaded."""


class InputError(AnePassesError):
    """The inputs of a call are missing, unknown, or of a wrong type, shape or value."""


class DataDependentError(CaptureError):
    """The model's shapes or control flow depend on the values of its inputs."""

    rule = "data-dependent-shape"


class SizeError(CaptureError):
    """A size that was to be dynamic cannot vary as asked for."""

    rule = "size-fixed-by-model"


class DynamicShapesError(CaptureError):
    """``dynamic_shapes`` does not fit the call's arguments."""

    rule = "dynamic-shapes-structure"
