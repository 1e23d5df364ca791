"""Where tasks run: in this process or in processes here; ``dask_cluster`` has the third place."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Protocol

from frontend.errors import AnePassesError
from lowering.ablation.tasks import Task, run_task
from lowering.support.quiet import quiet_third_parties

Done = tuple[Task, dict[str, Any]]


def undone(reason: str) -> dict[str, Any]:
    """The result of a task that nobody could finish; a cache does not keep it."""
    return {"failure": reason, "undone": True}


DIED = undone("the process that worked on it died twice; it may need more memory than there is")


class EngineError(AnePassesError):
    """Tasks cannot be run there."""


class Engine(Protocol):
    """Runs tasks; a context manager."""

    def run(self, tasks: Sequence[Task]) -> Iterator[Done]:
        """Each task with its result, in the order they are done."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, *error: Any) -> None: ...


class InProcess:
    """One task after the other, here."""

    def run(self, tasks: Sequence[Task]) -> Iterator[Done]:
        """See ``Engine``."""
        for task in tasks:
            yield task, run_task(task)

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *error: Any) -> None:
        pass


class LocalPool:
    """``jobs`` processes on this machine; their temporary files go when it closes.

    When a process dies, the tasks that were running are run again, each alone, so that only the
    one at fault can fail; it fails when it does so twice.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> LocalPool:
        self._folder = TemporaryDirectory(prefix="ane-passes-pool-")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._folder.cleanup()

    def run(self, tasks: Sequence[Task]) -> Iterator[Done]:
        """See ``Engine``."""
        waiting = deque(tasks)
        while waiting:
            suspects = yield from self._until_one_dies(waiting)
            for task in suspects:
                yield task, self._alone(task)

    def _until_one_dies(self, waiting: deque[Task]) -> Generator[Done, None, list[Task]]:
        """Takes tasks from ``waiting``; returns those that were running when a process died."""
        running: dict[Future[dict[str, Any]], Task] = {}
        while waiting or running:
            try:
                while waiting and len(running) < self.jobs:
                    running[self._started().submit(run_task, waiting[0])] = waiting[0]
                    waiting.popleft()
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    result = future.result()
                    yield running.pop(future), result
            except BrokenProcessPool:
                self._stop()
                return list(running.values())
        return []

    def _alone(self, task: Task) -> dict[str, Any]:
        # Twice: the first process may have died of a neighbour before this task began.
        for _ in range(2):
            try:
                return self._started().submit(run_task, task).result()
            except BrokenProcessPool:
                self._stop()
        return DIED

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Not forked from this process: torch's threads do not survive a fork. The server
            # imports once what every process needs, and starts none.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([run_task.__module__])
            self._pool = ProcessPoolExecutor(
                self.jobs,
                mp_context=context,
                initializer=_begin,
                initargs=(self._folder.name,),
            )
        return self._pool

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None


def _begin(folder: str) -> None:
    """Sets up a process of a pool.

    coremltools clears its temporary packages when the interpreter exits, which such a process
    never does (``multiprocessing`` ends it with ``os._exit``), nor does one that is killed.
    """
    tempfile.tempdir = folder
    quiet_third_parties()
