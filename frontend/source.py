"""Where a graph node comes from: the user's module path and source line."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from pathlib import PurePath
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import fx

# FX writes frames as 'File "path", line N, in function' followed by the code line.
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in [^\n]*\n\s*([^\n]*)')


@dataclass(frozen=True)
class Source:
    """Origin of one operator.

    Attributes:
        module: module path in the user's model, ``""`` for the top module or when unknown.
        line: ``file.py:41 code``, the innermost frame in the user's files, ``""`` when unknown.
        passes: names of the passes that wrote or rewrote the operator, oldest first.
    """

    module: str = ""
    line: str = ""
    passes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [" ← ".join(reversed(self.passes)), self.module, self.line]
        return " · ".join(part for part in parts if part) or "unknown source"


def source_of(node: fx.Node) -> Source:
    """Origin of ``node``, read from the metadata that capture and the passes keep."""
    return Source(module_path(node), source_line(node), tuple(node.meta.get("rewritten_by", ())))


def module_path(node: fx.Node) -> str:
    """Path of the innermost module that called ``node``, ``""`` for the top module."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = next(reversed(stack.values()))[0]
    # Non-strict export spells the path as an access expression on the root module.
    path = re.sub(r"^L\['self'\]\.?", "", path)
    return re.sub(r"\['?([^'\]]+)'?\]", r".\1", path).lstrip(".")


def source_line(node: fx.Node) -> str:
    """``file.py:41 code`` of the innermost recorded frame, ``""`` when none was recorded."""
    frames = quoted_lines(node.meta.get("stack_trace") or "")
    # Frames of generated code have no file of the user's.
    frames = [frame for frame in frames if not frame[0].startswith("<")]
    if not frames:
        return ""
    return spelled(*frames[-1])


def spelled(path: str, line: int | str | None, code: str | None) -> str:
    """A line of a file as everything here names it: ``file.py:41 code``."""
    return f"{PurePath(path).name}:{line} {(code or '').strip()}".rstrip()


def quoted_lines(text: str) -> list[tuple[str, str, str]]:
    """``(path, line, code)`` of the frames that are written out in ``text``, outermost first."""
    return _FRAME.findall(text)


def raising_line(trace: TracebackType | None, outside: tuple[str, ...] = ()) -> str | None:
    """``file.py:41 code`` of the innermost frame of ``trace`` that has a file, not below a folder
    of ``outside``; ``None`` where there is none."""
    for frame in reversed(traceback.extract_tb(trace)):
        if not frame.filename.startswith((*outside, "<")):
            return spelled(frame.filename, frame.lineno, frame.line)
    return None
