"""Text files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

from lowering.errors import SaveError
from lowering.support.staging import put, reason, staged


def write_text(text: str, path: str | Path) -> Path:
    """Writes ``text`` as UTF-8, replacing a file that is there, and gives its absolute path.

    Raises:
        SaveError: the folder is missing or cannot be written.
    """
    target = Path(path).expanduser().absolute()
    try:
        with staged(target) as folder:
            fresh = folder / "text"
            fresh.write_text(text, encoding="utf-8")
            put(fresh, target)
    except OSError as error:
        raise SaveError(
            f"the file could not be written: {reason(error)}",
            found=str(target),
            hint="choose a folder that exists and can be written",
        ) from error
    return target
