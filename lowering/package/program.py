"""Writes a program as a ``.pt2`` file, whole or not at all."""

from __future__ import annotations

import io
import os
from pathlib import Path

import torch
from torch.export import ExportedProgram

from lowering.errors import SaveError
from lowering.support.staging import put, reason, staged

SUFFIX = ".pt2"


class _Patient(io.RawIOBase):
    """A file whose writes never fail: the first error is kept and the rest is thrown away.

    Torch's writer ends the process when a write fails (*seen* in torch 2.13: its destructor
    raises).
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.error: OSError | None = None
        self._file = path.open("wb")

    def readable(self) -> bool:
        """Torch asks, and reads nothing."""
        return True

    def seekable(self) -> bool:
        """Torch rewinds the file when it is done."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Nothing: torch writes from the beginning to the end."""
        return 0

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Write ``data``, as far as nothing has failed before."""
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def finish(self) -> None:
        """Write what is still in memory.

        Raises:
            OSError: what any write met.
        """
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or error
        if self.error is not None:
            raise self.error


def save_program(program: ExportedProgram, path: str | os.PathLike[str]) -> Path:
    """Write ``program`` at ``path``, replacing a file that is there, and give its absolute path.

    Raises:
        SaveError: the folder is missing, full or cannot be written; ``path`` is as it was.
    """
    target = Path(path).expanduser().absolute()
    if target.suffix != SUFFIX:
        raise SaveError(
            "a program is saved as .pt2",
            expected=f"a path ending in {SUFFIX}",
            found=str(target),
            hint=f"name it {target.with_suffix(SUFFIX).name}",
        )
    try:
        with staged(target) as folder:
            fresh = folder / f"program{SUFFIX}"
            file = _Patient(fresh)
            torch.export.save(program, file)  # type: ignore[arg-type]
            file.finish()
            put(fresh, target)
    except OSError as error:
        raise SaveError(
            f"the program could not be written: {reason(error)}",
            found=str(target),
            hint="choose a folder that exists, can be written and has space",
        ) from error
    return target
