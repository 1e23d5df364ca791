"""Results on disk, by what they are results of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lowering.ablation.tasks import Task
from lowering.errors import SaveError
from lowering.support.text_file import write_text

# As other tools of the field keep theirs, on every OS.
DEFAULT_CACHE = Path("~/.cache/ane-passes/ablation")


class Cache:
    """One small JSON file for each result; a file is there whole or not at all.

    Args:
        folder: made when it is missing.
        fresh: read nothing, so that everything is measured anew, and replaced.

    Raises:
        SaveError: the folder cannot be made.
    """

    def __init__(self, folder: str | Path = DEFAULT_CACHE, *, fresh: bool = False) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self.fresh = fresh
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SaveError(
                f"the cache cannot be written: {error.strerror or error}",
                found=str(self.folder),
                hint="choose another folder with --cache DIR",
            ) from error

    def get(self, task: Task) -> dict[str, Any] | None:
        """The result of an equal task, ``None`` when there is none."""
        if self.fresh:
            return None
        try:
            found: dict[str, Any] = json.loads(self._path(task).read_text("utf-8"))["result"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return None  # damaged by something else: worth measuring again, and then replaced
        return found

    def put(self, task: Task, result: dict[str, Any]) -> None:
        """Keeps ``result``.

        Raises:
            SaveError: the folder cannot be written.
        """
        text = json.dumps({"label": task.label, "result": result}, indent=1)
        write_text(text, self._path(task))

    def _path(self, task: Task) -> Path:
        return self.folder / f"{task.key}.json"
