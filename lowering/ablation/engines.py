"""Where tasks run: in this process, in processes here, or on a Dask cluster."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from frontend.errors import AnePassesError
from lowering.ablation.tasks import Task, run_task
from lowering.support.quiet import quiet_third_parties

Done = tuple[Task, dict[str, Any]]
_DIED: dict[str, Any] = {
    "failure": "the process that worked on it died twice; it may need more memory than there is",
    "died": True,
}


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
    """``jobs`` processes on this machine.

    When a process dies, the tasks that were running are run again, each alone, so that only the
    one at fault can fail; it fails when it does so twice.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

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
        return _DIED

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Not forked from this process: torch's threads do not survive a fork. The server
            # imports once what every process needs, and starts none.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([run_task.__module__])
            self._pool = ProcessPoolExecutor(
                self.jobs, mp_context=context, initializer=quiet_third_parties
            )
        return self._pool

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None


class DaskCluster:
    """A Dask cluster: a local one of ``jobs`` processes, or the one at ``address``.

    Workers of a cluster elsewhere need this package, and get the model through Dask.

    Raises:
        EngineError: Dask is not installed, or nobody answers at ``address``.
    """

    def __init__(self, jobs: int, address: str | None = None) -> None:
        self.jobs = jobs
        self.address = address
        self._sent: dict[str, Any] = {}

    def __enter__(self) -> DaskCluster:
        try:
            import dask
            from distributed import Client, LocalCluster
        except ModuleNotFoundError as error:
            raise EngineError(
                "Dask is not installed",
                found=f"no module {error.name}",
                hint='pip install "ane-passes[sweep]"',
            ) from error
        self._cluster = None
        if self.address is None:
            # A task whose worker dies is run once more; by default it would be three times.
            dask.config.set({"distributed.scheduler.allowed-failures": 1})
            self._cluster = LocalCluster(
                n_workers=self.jobs,
                threads_per_worker=1,
                dashboard_address=None,
                silence_logs="CRITICAL",
            )
        try:
            self._client = Client(self._cluster or self.address, timeout="10s")
        except (OSError, TimeoutError, ValueError) as error:
            raise EngineError(
                "No Dask scheduler answers",
                expected="an address such as tcp://host:8786",
                found=f"{self.address}: {error}",
            ) from error
        return self

    def __exit__(self, *error: Any) -> None:
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def run(self, tasks: Sequence[Task]) -> Iterator[Done]:
        """See ``Engine``."""
        from distributed import KilledWorker, as_completed

        def submitted(task: Task) -> Any:
            return self._client.submit(run_task, task, self._data(task), pure=False)

        futures = {submitted(task): task for task in tasks}
        suspects = []
        for future in as_completed(futures):
            try:
                result = future.result()
            except KilledWorker:
                suspects.append(futures[future])
            else:
                yield futures[future], result
        # Dask blames every task that a dead worker had; alone, only the one at fault fails again.
        for task in suspects:
            try:
                result = submitted(task).result()
            except KilledWorker:
                result = _DIED
            yield task, result

    def _data(self, task: Task) -> Any:
        """The model's file as a future: workers elsewhere cannot read it here."""
        source = task.source
        if self.address is not None and source.digest not in self._sent:
            content = Path(source.path).read_bytes()
            self._sent[source.digest] = self._client.scatter(content)
        return self._sent.get(source.digest)
