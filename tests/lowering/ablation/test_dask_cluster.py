"""A Dask cluster gives each task its result, or says that nobody is left to do it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lowering.ablation.dask_cluster import DaskCluster
from lowering.ablation.engines import EngineError
from tests.lowering.ablation.ablation_models import Littering, results, source_in, told

distributed = pytest.importorskip("distributed")


def bare_cluster():
    """A scheduler of this process without workers."""
    return distributed.LocalCluster(
        n_workers=0, processes=False, dashboard_address=None, silence_logs="CRITICAL"
    )


def test_a_dead_worker_costs_one_retry_and_blames_the_task_at_fault(tmp_path):
    litter = Littering(source_in(tmp_path), "litter", str(tmp_path), dies=False)
    found = results(DaskCluster(1), [*told(tmp_path, a=0, once=1, always=99), litter])
    assert "died twice" in found.pop("always")["failure"]
    assert found == {label: {"label": label} for label in ("a", "once", "litter")}
    left = (tmp_path / "left.txt").read_text().split()
    assert left
    assert not any(Path(path).exists() for path in left)


def test_a_cluster_of_ours_without_workers_is_started_again(tmp_path):
    tasks = told(tmp_path, a=0, b=0)
    with DaskCluster(1, patience=1) as engine:
        for nanny in list(engine.cluster.workers.values()):
            engine.cluster.sync(nanny.close)
        found = {task.label: result for task, result in engine.run(tasks)}
    assert found == {"a": {"label": "a"}, "b": {"label": "b"}}


def test_tasks_come_back_undone_from_a_cluster_without_workers(tmp_path):
    with bare_cluster() as cluster:
        found = results(
            DaskCluster(1, cluster.scheduler_address, patience=1), told(tmp_path, a=0, b=0)
        )
    assert set(found) == {"a", "b"}
    for result in found.values():
        assert result["failure"] == "no worker of the Dask cluster has lived for 1 s"
        assert result["undone"]


def test_tasks_come_back_undone_when_the_scheduler_goes(tmp_path):
    cluster = bare_cluster()
    with DaskCluster(1, cluster.scheduler_address, patience=30) as engine:
        closing = threading.Timer(0.5, cluster.close)
        closing.start()
        found = dict(engine.run(told(tmp_path, a=0, b=0)))
        closing.join()
    assert {task.label for task in found} == {"a", "b"}
    assert all(result["undone"] for result in found.values())


def test_no_scheduler():
    with pytest.raises(EngineError, match="no Dask scheduler answers"), DaskCluster(1, "tcp://"):
        pass
