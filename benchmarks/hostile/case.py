"""One case of the campaign: files to write, a command to run on them, what may come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# The folder that a case runs in, with its files.
RUN = "run"
# Where its command may write, below that.
OUTPUT = "out"
# What code of a hostile file would leave.
MARKER = "code-was-run"


@dataclass(frozen=True)
class Case:
    """One command on something hostile.

    Attributes:
        kind: what is wrong, in a word or two: a row of the table.
        name: what was done, in a few words.
        arguments: of ``ane-passes``, run in the case's folder.
        make: writes the case's files in the folder that it is given.
        names: what a refusal has to name; the file in most cases.
        refused: whether the command has to refuse; ``False`` where it may do what it is asked,
            since not every change of a file makes it wrong.
    """

    kind: str
    name: str
    arguments: tuple[str, ...]
    make: Callable[[Path], None]
    names: tuple[str, ...] = ()
    refused: bool = False

    @property
    def title(self) -> str:
        """How tables and messages name the case."""
        return f"{self.kind}: {self.name}: {' '.join(self.arguments)}"
