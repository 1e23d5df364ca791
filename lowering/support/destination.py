"""Where an output goes, and writing it there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lowering.errors import SaveError
from lowering.support.staging import put, reason, staged, standing


@dataclass(frozen=True)
class Destination:
    """A kind of output that is a folder.

    Attributes:
        suffix: what its name ends with, such as ``.mlpackage``.
        noun: what it is called, with its article, such as ``a package``.
        content: what is saved as one, such as ``an ML Program``.
        is_one: whether a folder is one of them.
    """

    suffix: str
    noun: str
    content: str
    is_one: Callable[[Path], bool]

    @property
    def _name(self) -> str:
        return self.noun.split()[1]

    def target(self, path: str | os.PathLike[str]) -> Path:
        """The absolute path that is written, with the suffix where ``path`` has none.

        Raises:
            SaveError: the folder is missing, or something else stands there.
        """
        if Path(path).name in ("", ".."):
            raise SaveError(
                "the output has no name",
                expected=f"a path ending in {self.suffix}",
                found=repr(str(path)),
                hint=f"name the {self._name}, such as net{self.suffix}",
            )
        target = Path(path).expanduser().absolute()
        if not target.suffix:
            target = target.with_name(target.name + self.suffix)
        if target.suffix != self.suffix:
            raise SaveError(
                f"{self.content} is saved as {self.noun}",
                expected=f"a path ending in {self.suffix}",
                found=str(target),
            )
        if not target.parent.is_dir():
            raise SaveError("the output folder does not exist", found=str(target.parent))
        if standing(target) and not self.is_one(target):
            raise SaveError(
                f"something that is not {self.noun} stands at the output path; it is left alone",
                found=str(target),
            )
        return target

    def write(self, target: Path, write: Callable[[Path], None]) -> None:
        """Let ``write`` make the output in a folder beside ``target``, and move it there.

        Raises:
            SaveError: it cannot be written; ``target`` is as it was.
        """
        try:
            with staged(target) as folder:
                fresh = folder / f"{self._name}{self.suffix}"
                write(fresh)
                put(fresh, target)
        except OSError as error:
            raise SaveError(
                f"the {self._name} could not be written: {reason(error)}",
                found=str(target),
                hint="choose a folder that can be written and has space, with -o or "
                "save(..., path)",
            ) from error
