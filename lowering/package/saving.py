"""Writes a package all at once or not at all, and the same model always as the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
from google.protobuf.message import Message

from lowering.core_ai.asset import CoreAIModel, save_aimodel
from lowering.package.folder import DATA, MANIFEST, SUFFIX
from lowering.support.destination import Destination
from lowering.support.quiet import quiet_coremltools

_PACKAGE = Destination(
    SUFFIX,
    "a package",
    "an ML Program",
    lambda folder: (folder / MANIFEST).is_file(),
)
_HASH_BLOCK = 1 << 20  # bytes read at a time, so that weights are never in memory as a whole


def save(mlmodel: ct.models.MLModel | CoreAIModel, path: str | os.PathLike[str]) -> Path:
    """Write ``mlmodel`` as a package at ``path``, replacing a package that is there.

    The package is written beside ``path`` and moved into place; until then, and after any
    failure, ``path`` is as it was. Equal models give equal files: message maps are written in
    order, and the identifiers in the manifest follow from the content.

    Args:
        mlmodel: what :func:`lowering.convert` returns, or any ML Program ``MLModel``.
        path: ends with ``.mlpackage`` (``.aimodel`` for Core AI), which is added where there is no
            suffix.

    Returns:
        The absolute path of the package.

    Raises:
        SaveError: the folder is missing or cannot be written, or something that is not a package
            stands at ``path``.
    """

    if isinstance(mlmodel, CoreAIModel):
        return save_aimodel(mlmodel, path)

    def write(fresh: Path) -> Message:
        mlmodel.save(str(fresh))
        specification: Message = mlmodel.get_spec()
        return specification

    return write_package(write, path)


def write_package(write: Callable[[Path], Any], path: str | os.PathLike[str]) -> Path:
    """As :func:`save`, for a package that ``write(path)`` makes; it returns the model message."""
    target = package_path(path)

    def written(fresh: Path) -> None:
        with quiet_coremltools():
            message = write(fresh)
        _make_deterministic(fresh, message)

    _PACKAGE.write(target, written)
    return target


def copy_package(source: Path, path: str | os.PathLike[str]) -> Path:
    """Write a copy of the package at ``source``, as :func:`save` writes a package."""
    target = package_path(path)

    def written(fresh: Path) -> None:
        shutil.copytree(source, fresh)

    _PACKAGE.write(target, written)
    return target


def package_path(path: str | os.PathLike[str]) -> Path:
    """Where a package given by ``path`` is written.

    Raises:
        SaveError: the folder is missing, or something that is not a package stands there.
    """
    return _PACKAGE.target(path)


def _make_deterministic(package: Path, message: Message) -> None:
    """Make the bytes of ``package`` follow from its content alone."""
    manifest = json.loads((package / MANIFEST).read_text())
    items: dict[str, Any] = manifest["itemInfoEntries"]
    root = manifest["rootModelIdentifier"]
    specification = package / DATA / items[root]["path"]
    specification.write_bytes(message.SerializeToString(deterministic=True))
    renamed = {old: _identifier(package / DATA / item["path"]) for old, item in items.items()}
    manifest["itemInfoEntries"] = {renamed[old]: item for old, item in items.items()}
    manifest["rootModelIdentifier"] = renamed[root]
    (package / MANIFEST).write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n")


def _identifier(path: Path) -> str:
    """A UUID of a file or folder, by its name and content."""
    digest = hashlib.sha256()
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in files:
        digest.update(file.relative_to(path.parent).as_posix().encode())
        if file.is_file():
            with file.open("rb") as stream:
                while block := stream.read(_HASH_BLOCK):
                    digest.update(block)
    return str(uuid.uuid5(uuid.NAMESPACE_OID, digest.hexdigest())).upper()
