"""What a command must not do, whatever it is given; what a refusal has to say."""

from __future__ import annotations

import os
from collections.abc import Iterator

from benchmarks.hostile.case import MARKER, OUTPUT, RUN
from benchmarks.hostile.run import EXIT_UNCAUGHT, Ran

_DONE = (0, 1)
_REFUSED = 2
_SHOWN = 300  # characters of what was printed


def violations(ran: Ran) -> Iterator[str]:
    """Each rule that a command broke, with what shows it."""
    if ran.timed_out:
        yield f"hangs: ended after {ran.seconds:.0f} s"
    elif ran.code < 0 or ran.code not in (*_DONE, _REFUSED):
        what = "an exception" if ran.code == EXIT_UNCAUGHT else f"exit code {ran.code}"
        yield f"crashes: {what}: {_last_line(ran.stderr)}"
    if "Traceback (most recent call last)" in ran.stderr + ran.stdout:
        yield f"prints a traceback: {_last_line(ran.stderr)}"
    yield from _files(ran)
    if ran.code == _REFUSED:
        yield from _message(ran)
    elif ran.case.refused and ran.code in _DONE:
        yield f"not refused: exit code {ran.code}: {ran.stdout[-_SHOWN:]}"


def _files(ran: Ran) -> Iterator[str]:
    changed = [
        path
        for path in sorted({*ran.before, *ran.after})
        if ran.before.get(path) != ran.after.get(path)
    ]
    for path in changed:
        parts = path.split(os.sep)
        if parts[-1] == MARKER:
            yield f"runs code of the file: {path}"
        elif parts[0] == "tmp":
            yield f"left behind: {path}"
        elif parts[:2] != [RUN, OUTPUT]:
            yield f"writes outside of the output: {path}"
        elif ran.code not in _DONE:
            yield f"half-written: {path}"
        elif parts[2].startswith("."):
            yield f"left behind: {path}"


def _message(ran: Ran) -> Iterator[str]:
    text = ran.stderr.strip() or ran.stdout.strip()
    if text.startswith("Usage:"):
        return  # click's own: the option, what it may be, and where to read on
    if not any(line.startswith("Error: ") for line in text.splitlines()):
        yield f"prints no error: {text[:_SHOWN]}"
    missing = [name for name in ran.case.names if name not in text]
    if missing:
        yield f"the message does not name {', '.join(missing)}: {text[:_SHOWN]}"
    if "next step:" not in text:
        yield f"the message names no next step: {text[:_SHOWN]}"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:_SHOWN] if lines else "nothing printed"
