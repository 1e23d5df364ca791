"""Engines give each task its result, also when processes die."""

from __future__ import annotations

import pytest

from lowering.ablation.engines import DaskCluster, EngineError, InProcess, LocalPool
from tests.lowering.ablation.ablation_models import Told, source_in


def results(engine, tasks):
    with engine as running:
        return {task.label: result for task, result in running.run(tasks)}


def told(folder, **deaths):
    source = source_in(folder)
    return [Told(source, label, str(folder), count) for label, count in deaths.items()]


def test_in_process(tmp_path):
    tasks = told(tmp_path, a=0, b=0)
    assert results(InProcess(), tasks) == {"a": {"label": "a"}, "b": {"label": "b"}}


def test_a_dead_process_costs_one_retry_and_blames_the_task_at_fault(tmp_path):
    tasks = told(tmp_path, a=0, once=1, always=99, b=0, c=0)
    found = results(LocalPool(2), tasks)
    assert "died twice" in found.pop("always")["failure"]
    assert found == {label: {"label": label} for label in ("a", "once", "b", "c")}
    assert 2 <= len(list(tmp_path.glob("always.*"))) <= 3


def test_dask_retries_once_as_well(tmp_path):
    pytest.importorskip("distributed")
    tasks = told(tmp_path, a=0, once=1, always=99)
    found = results(DaskCluster(1), tasks)
    assert "died twice" in found.pop("always")["failure"]
    assert found == {"a": {"label": "a"}, "once": {"label": "once"}}


def test_no_scheduler():
    pytest.importorskip("distributed")
    with pytest.raises(EngineError, match="No Dask scheduler answers"), DaskCluster(1, "tcp://"):
        pass
