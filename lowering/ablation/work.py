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

    def results(self, tasks: Sequence[Task]) -> Results:
        """Results by key; equal tasks run once, and each is kept as soon as it is done."""
        unique: dict[str, Task] = {}
        for task in tasks:
            unique.setdefault(task.key, task)
        self.known += len(unique)
        found: Results = {}
        for key, task in unique.items():
            kept = None if self.cache is None else self.cache.get(task)
            if kept is not None:
                found[key] = kept
                self._tick(task)
        for task, result in self.engine.run([t for key, t in unique.items() if key not in found]):
            if self.cache is not None:
                self.cache.put(task, result)
            found[task.key] = result
            self._tick(task)
        return found

    def _tick(self, task: Task) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.known, task.label)
