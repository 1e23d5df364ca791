"""Outputs that are there whole or not at all, however many processes write them or are killed.

An output is written in a hidden folder beside it, on the same file system, and moved into place in
one step. Who writes holds a lock on the hidden folder, which the system takes away when the process
ends: a folder that nobody holds was left by a killed one, and the next writer clears it. Moves and
clearing hold a lock on the folder around, so that writers of one output follow one another.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lowering.errors import SaveError

_SUFFIX = ".saving"
# Where the package that is being replaced waits between two moves.
_PREVIOUS = "previous"


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` for what is to stand there; gone afterwards.

    Args:
        target: an absolute path.

    Raises:
        OSError: the folder around cannot be written.
    """
    with _locked(target.parent):
        _clear(target)
        folder = Path(tempfile.mkdtemp(_SUFFIX, _prefix(target), target.parent))
        held = _lock(folder, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


def put(fresh: Path, target: Path) -> None:
    """Move ``fresh``, written in the folder of :func:`staged`, to ``target``.

    A package is two moves, the old one out and the new one in; if the second fails, the first is
    taken back.

    Raises:
        OSError: it cannot be moved; ``target`` is as it was.
    """
    with _locked(target.parent):
        if not fresh.is_dir() or not target.exists():
            fresh.replace(target)
            return
        aside = fresh.parent / _PREVIOUS
        target.rename(aside)
        try:
            fresh.rename(target)
        except OSError:
            aside.rename(target)
            raise


def standing(target: Path) -> bool:
    """Whether something stands at ``target``; a link that leads nowhere is nothing.

    Raises:
        SaveError: no file can have this name, or it cannot be looked at.
    """
    try:
        if not target.name:
            raise SaveError("the output has no name", found=str(target), hint=_NAME_IT)
        target.stat()
        return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise SaveError(
            f"nothing can be written at the output path: {why}", found=str(target), hint=_NAME_IT
        ) from error


_NAME_IT = "give the path of a file or folder that can be made"


def reason(error: OSError) -> str:
    """Why something could not be written, in a few words."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        # Of copying a folder: (source, copy, message) for each file.
        return str(error.args[0][0][-1]).split(": '")[0]
    return error.strerror or str(error)


def _clear(target: Path) -> None:
    """Remove what killed writers of ``target`` left; a package taken out of place goes back."""
    for entry in os.scandir(target.parent):
        is_ours = entry.name.startswith(_prefix(target)) and entry.name.endswith(_SUFFIX)
        if not is_ours or not entry.is_dir(follow_symlinks=False):
            continue
        try:
            held = _lock(Path(entry.path), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:  # its writer was just done with it
            continue
        if held is None:  # its writer lives
            continue
        previous = Path(entry.path) / _PREVIOUS
        if previous.exists() and not target.exists():
            previous.rename(target)
        shutil.rmtree(entry.path, ignore_errors=True)
        os.close(held)


def _prefix(target: Path) -> str:
    """One for each name: a name itself may be as long as a file's name can be."""
    return f".ane-passes-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}-"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    held = _lock(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if held is not None:
            os.close(held)


def _lock(folder: Path, how: int) -> int | None:
    """An open file that holds the lock of ``folder``; ``None`` where it cannot be had.

    Some network file systems have no locks. There nothing is cleared, and writers may meet.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, how)
    except OSError:
        os.close(handle)
        return None
    return handle
