"""Runs the tasks that the cache does not have, and keeps what they give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lowering.ablation.cache import Cache
from lowering.ablation.engines import Engine
from lowering.ablation.tasks import Task

Results = dict[str, dict[str, Any]]
# Called with tasks done, tasks known so far, and what was done last.
Progress = Callable[[int, int, str], None]


class Work:
    """One sweep's engine, cache and count of tasks."""

    def __init__(
        self, engine: Engine, cache: Cache | None = None, progress: Progress | None = None
    ) -> None:
        self.engine = engine
        self.cache = cache
        self.progress = progress
        self.done = self.known = 0
        self._found: Results = {}

    def results(self, tasks: Sequence[Task]) -> Results:
        """Results by key; equal tasks run once, and each is kept as soon as it is done."""
        missing: dict[str, Task] = {}
        for task in tasks:
            if task.key not in self._found:
                missing.setdefault(task.key, task)
        self.known += len(missing)
        for key, task in list(missing.items()):
            kept = None if self.cache is None else self.cache.get(task)
            if kept is not None:
                self._keep(missing.pop(key), kept)
        for task, result in self.engine.run(list(missing.values())):
            # A process may die of what else the machine does: the next run tries again.
            if self.cache is not None and not result.get("undone"):
                self.cache.put(task, result)
            self._keep(task, result)
        return {task.key: self._found[task.key] for task in tasks}

    def _keep(self, task: Task, result: dict[str, Any]) -> None:
        self._found[task.key] = result
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.known, task.label)
