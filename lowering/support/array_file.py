"""Arrays from ``.npy`` and ``.npz`` files; nothing in them is unpickled."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

# What numpy raises for files that are damaged, or say that they are huge.
READ_ERRORS = (OSError, ValueError, EOFError, MemoryError, AttributeError, zipfile.BadZipFile)
_NUMBERS = "fiub"


def read_array_file(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """The array of a ``.npy`` file, or the arrays of a ``.npz`` file by name.

    Raises:
        READ_ERRORS: it is none, or holds something else than numbers.
    """
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return _numbers(path.name, loaded)
    with loaded as archive:
        return {name: _numbers(name, archive[name]) for name in archive.files}


def _numbers(name: str, array: object) -> np.ndarray:
    """``array``; of a member that is no array numpy gives its bytes."""
    kind = array.dtype if isinstance(array, np.ndarray) else "bytes"
    if not isinstance(array, np.ndarray) or array.dtype.kind not in _NUMBERS:
        raise ValueError(f"{name} is no array of real numbers but of {kind}")
    return array
