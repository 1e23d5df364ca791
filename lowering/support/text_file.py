"""Text files that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from lowering.errors import SaveError


def write_text(text: str, path: str | Path) -> Path:
    """Writes ``text`` as UTF-8, replacing a file that is there, and gives its absolute path.

    Raises:
        SaveError: the folder is missing or cannot be written.
    """
    target = Path(path).expanduser().absolute()
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            fresh = Path(folder) / target.name
            fresh.write_text(text, encoding="utf-8")
            os.replace(fresh, target)
    except OSError as error:
        raise SaveError(
            f"The file could not be written: {error.strerror or error}",
            found=str(target),
            hint="choose a folder that exists and can be written",
        ) from error
    return target
