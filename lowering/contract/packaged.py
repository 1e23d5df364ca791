"""The package of a contract's folder, for what reads packages from a path."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from frontend.errors import AnePassesError
from lowering.contract.converting import convert_folder
from lowering.contract.folder import ModelFolder
from lowering.package.folder import SUFFIX
from lowering.package.saving import save


@contextmanager
def packaged(folder: ModelFolder) -> Iterator[Path]:
    """The path of ``folder``'s package, which is there for the block alone.

    Errors of the block name the folder: its package is gone when they are read.

    Raises:
        LoweringError: the program cannot be a Core ML model.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"{folder.path.name}{SUFFIX}"
        save(convert_folder(folder, skip_model_load=True), path)
        try:
            yield path
        except AnePassesError as error:
            for key, value in error.details.items():
                error.details[key] = value and value.replace(str(path), str(folder.path))
            raise
