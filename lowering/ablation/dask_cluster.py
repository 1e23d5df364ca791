"""Tasks on a Dask cluster: one of this machine's processes, or one that is there already."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lowering.ablation.engines import DIED, Done, EngineError, undone
from lowering.ablation.tasks import Task, run_task

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster

Result = dict[str, Any]
# Between two looks at whether anybody still works.
_LOOK_SECONDS = 2.0
# A worker needs some 5 s to start on an idle core, and several times that on a busy one.
NO_WORKER_SECONDS = 60.0
# Fresh workers that all die before one task is done will not do it the next time either.
_MOST_RESTARTS = 2


class DaskCluster:
    """A Dask cluster: a local one of ``jobs`` processes, or the one at ``address``.

    Workers of a cluster elsewhere need this package, and get the model through Dask. Where no
    worker has lived for ``patience`` seconds, a local cluster is started again, twice at most
    without a task done between; then, and elsewhere at once, the tasks come back undone.

    Attributes:
        cluster: the one that was started here; ``None`` for one elsewhere.

    Raises:
        EngineError: Dask is not installed, or nobody answers at ``address``.
    """

    def __init__(
        self, jobs: int, address: str | None = None, *, patience: float = NO_WORKER_SECONDS
    ) -> None:
        self.jobs = jobs
        self.address = address
        self.patience = patience
        self._sent: dict[str, Any] = {}
        self.cluster: LocalCluster | None = None
        self._open = ExitStack()

    def __enter__(self) -> DaskCluster:
        try:
            self._client = self._started()
        except ModuleNotFoundError as error:
            raise EngineError(
                "Dask is not installed",
                found=f"no module {error.name}",
                hint='pip install "ane-passes[sweep]"',
            ) from error
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.close()

    def run(self, tasks: Sequence[Task]) -> Iterator[Done]:
        """See ``Engine``."""
        suspects = []
        for task, result in self._once(tasks):
            if result is None:
                suspects.append(task)
            else:
                yield task, result
        # Dask blames every task that a dead worker had; alone, only the one at fault fails again.
        for suspect in suspects:
            for task, result in self._once([suspect]):
                yield task, DIED if result is None else result

    def _started(self) -> Client:
        import dask
        from distributed import Client, LocalCluster

        cluster: LocalCluster | None = None
        with ExitStack() as opened:
            if self.address is None:
                folder = opened.enter_context(TemporaryDirectory(prefix="ane-passes-dask-"))
                settings = {
                    # A task whose worker dies is run once more; by default three times.
                    "distributed.scheduler.allowed-failures": 1,
                    # By default a worker that takes 15 s to come back is given up for good.
                    "distributed.deploy.lost-worker-timeout": f"{self.patience}s",
                }
                opened.enter_context(dask.config.set(settings))
                cluster = opened.enter_context(
                    LocalCluster(
                        n_workers=self.jobs,
                        threads_per_worker=1,
                        dashboard_address=None,
                        silence_logs="CRITICAL",
                        # What a killed worker leaves behind goes with the cluster.
                        env={"TMPDIR": folder},
                    )
                )
            try:
                client = opened.enter_context(Client(cluster or self.address, timeout="10s"))
            except (OSError, TimeoutError, ValueError) as error:
                raise EngineError(
                    "no Dask scheduler answers",
                    expected="an address such as tcp://host:8786",
                    found=f"{self.address}: {error}",
                ) from error
            self.cluster, self._open = cluster, opened.pop_all()
        return client

    def _once(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Result | None]]:
        """Each task with its result; ``None`` where a worker died of it, or beside it."""
        waiting = {self._submitted(task): task for task in tasks}
        alive, restarts = time.monotonic(), 0
        while waiting:
            done = self._done(waiting)
            for future, result in done.items():
                yield waiting.pop(future), result
            if done or self._has_workers():
                alive, restarts = time.monotonic(), 0 if done else restarts
            elif time.monotonic() - alive > self.patience:
                if self.address is not None or restarts == _MOST_RESTARTS:
                    yield from ((task, self._given_up()) for task in waiting.values())
                    return
                restarts += 1
                self._open.close()
                self._client = self._started()
                waiting = {self._submitted(task): task for task in waiting.values()}
                alive = time.monotonic()

    def _done(self, waiting: Mapping[Future, Task]) -> dict[Future, Result | None]:
        """What is done within a short time."""
        from distributed import KilledWorker, wait

        with suppress(TimeoutError, CancelledError):
            wait(list(waiting), timeout=_LOOK_SECONDS, return_when="FIRST_COMPLETED")
        done: dict[Future, Result | None] = {}
        for future in filter(lambda entry: entry.done(), waiting):
            # Out of time: the result was lost with its worker, and is computed again.
            with suppress(TimeoutError):
                try:
                    done[future] = future.result(timeout=_LOOK_SECONDS)
                except KilledWorker:
                    done[future] = None
                except CancelledError:
                    done[future] = undone("the Dask scheduler that had it is gone")
        return done

    def _has_workers(self) -> bool:
        try:
            return self._client.status == "running" and bool(self._client.nthreads())
        except OSError:
            return False

    def _given_up(self) -> Result:
        return undone(f"no worker of the Dask cluster has lived for {self.patience:g} s")

    def _submitted(self, task: Task) -> Future:
        return self._client.submit(run_task, task, self._data(task), pure=False)

    def _data(self, task: Task) -> object:
        """The model's file as a future: workers elsewhere cannot read it here."""
        source = task.source
        if self.address is not None and source.digest not in self._sent:
            # Not scattered: that needs a worker now, and is lost with it.
            content = Path(source.path).read_bytes()
            self._sent[source.digest] = self._client.submit(bytes, content, pure=False)
        return self._sent.get(source.digest)
