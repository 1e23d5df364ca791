"""Engines give each task its result, also when processes die."""

from __future__ import annotations

from pathlib import Path

from lowering.ablation.engines import InProcess, LocalPool
from tests.lowering.ablation.ablation_models import Littering, results, source_in, told


def test_in_process(tmp_path):
    tasks = told(tmp_path, a=0, b=0)
    assert results(InProcess(), tasks) == {"a": {"label": "a"}, "b": {"label": "b"}}


def test_a_dead_process_costs_one_retry_and_blames_the_task_at_fault(tmp_path):
    tasks = told(tmp_path, a=0, once=1, always=99, b=0, c=0)
    found = results(LocalPool(2), tasks)
    assert "died twice" in found.pop("always")["failure"]
    assert found == {label: {"label": label} for label in ("a", "once", "b", "c")}
    assert 2 <= len(list(tmp_path.glob("always.*"))) <= 3


def test_temporary_files_of_processes_go_with_the_pool(tmp_path):
    source = source_in(tmp_path)
    tasks = [
        Littering(source, "ends", str(tmp_path), dies=False),
        Littering(source, "dies", str(tmp_path), dies=True),
    ]
    results(LocalPool(2), tasks)
    left = [Path(line) for line in (tmp_path / "left.txt").read_text().split()]
    assert len(left) >= 2
    assert not any(path.exists() for path in left)
