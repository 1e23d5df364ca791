"""A sample of coremltools' MIL op tests, with their own tolerances, and proof that they judge."""

from pathlib import Path

import pytest

from benchmarks.conformance import read, run, summarize

pytest.importorskip("PIL")
pytest.importorskip("scipy")

# One case of most test functions; the whole is `python -m benchmarks.conformance`.
SAMPLE = 130
FAULT_SAMPLE = 60


def test_sample_passes_and_failures_are_listed(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    run("ops", log, sample=SAMPLE, fp32=True)
    summary = summarize(read(log).values())
    assert summary.executed > SAMPLE // 3
    assert not summary.unlisted, summary.failed


def test_comparisons_notice_a_fault(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    run("ops", log, sample=FAULT_SAMPLE, fault=True)
    summary = summarize(read(log).values())
    # Boolean and empty outputs are not disturbed, and a few tests only ask for shapes.
    assert summary.passed < 0.35 * summary.executed
