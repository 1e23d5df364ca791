"""The folder that a ``.mlpackage`` is: manifest, model file, weights, and how large it is.

The layout is *documented* by coremltools' ``modelpackage`` sources: ``Manifest.json`` names the
root item among its entries, whose paths are relative to ``Data``; weights lie beside the model
file.
"""

from __future__ import annotations

import os
from pathlib import Path

from frontend.json_text import parse
from lowering.errors import PackageError
from lowering.package.kinds import git_lfs_pointer

SUFFIX = ".mlpackage"
MANIFEST = "Manifest.json"
DATA = "Data"
WEIGHTS = "weights"


def is_package(path: Path) -> bool:
    """Whether a package stands at ``path``: a folder with a manifest."""
    return (path / MANIFEST).is_file()


def stored_bytes(folder: Path) -> int:
    """Bytes of all files below ``folder``; links are not followed."""
    return sum(
        (Path(parent) / name).lstat().st_size
        for parent, _, names in os.walk(folder)
        for name in names
    )


def model_file(package: Path) -> Path:
    """The file with the model's specification.

    Raises:
        PackageError: the manifest is missing or names no file inside the package.
    """
    manifest = package / MANIFEST
    if not manifest.is_file():
        raise PackageError(
            "the package has no manifest",
            expected=str(manifest),
            hint="copy or unpack the package again, as a whole folder",
        )
    path = inside(package, package / DATA / _root_path(inside(package, manifest)))
    if not path.is_file():
        raise PackageError(
            "the package's model file is missing",
            expected=str(path),
            found=_first_files(package),
            hint="copy or unpack the package again, as a whole folder",
        )
    return path


def _root_path(manifest: Path) -> str:
    """What the manifest says of the root item: a path relative to ``Data``."""
    hint = "copy the package again, or save the model again"
    try:
        content = parse(manifest.read_text(encoding="utf-8"))
    except ValueError as error:
        pointer = git_lfs_pointer(manifest, "the package's manifest")
        raise pointer or PackageError(
            "the package's manifest is corrupt",
            expected="JSON",
            found=f"{manifest}: {error}",
            hint=hint,
        ) from error
    for field, kind in (("rootModelIdentifier", str), ("itemInfoEntries", dict)):
        if not isinstance(content, dict) or not isinstance(content.get(field), kind):
            raise PackageError(
                "the package's manifest is corrupt",
                expected=f"an object with {field!r}, a JSON {_JSON_NAMES[kind]}",
                found=f"{manifest}: {_shortened(content)}",
                hint=hint,
            )
    root = content["rootModelIdentifier"]
    entry = content["itemInfoEntries"].get(root)
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str) or not entry["path"]:
        raise PackageError(
            "the package's manifest is corrupt",
            expected=f"an entry with a 'path' in 'itemInfoEntries' for the root item {root!r}",
            found=f"{manifest}: {_shortened(entry)}",
            hint=hint,
        )
    path: str = entry["path"]
    if "\0" in path:
        raise PackageError(
            "the package's manifest is corrupt",
            expected="a 'path' of a file",
            found=f"{manifest}: {path!r}",
            hint=hint,
        )
    return path


_JSON_NAMES = {str: "string", dict: "object"}
_SHOWN = 80  # characters of a value that is not what it should be


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def inside(package: Path, path: Path) -> Path:
    """``path``, which lies in ``package`` with all links followed.

    Raises:
        PackageError: it leads out of the package, by its name or by a link.
    """
    try:
        real = path.resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise PackageError(
            "a file of the package cannot be reached", found=f"{path}: {error}", hint=_COPY_HINT
        ) from error
    if not real.is_relative_to(package.resolve()):
        raise PackageError(
            "a file of the package lies outside of it; it is not read",
            expected=f"a file inside {package}",
            found=f"{path} leads to {real}",
            hint=_COPY_HINT,
        )
    return path


_COPY_HINT = "if you trust where it leads, copy the package with its links followed (cp -RL)"


def _first_files(package: Path) -> str | None:
    names = sorted(str(file.relative_to(package)) for file in package.rglob("*") if file.is_file())
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown or None
