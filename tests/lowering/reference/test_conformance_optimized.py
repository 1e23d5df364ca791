"""coremltools' torch op tests through our own pipeline: how cases are counted, and a sample."""

from pathlib import Path

import pytest

from benchmarks.conformance import read, run, summarize

SAMPLE = 8

RECORD = {
    "test": "a",
    "outcome": "passed",
    "predictions": 1,
    "precision": "fp16",
    "declares_fp16": True,
    "compared": 1,
    "held": 1,
    "reason": "",
}


def test_a_case_that_cannot_be_converted_is_executed_and_fails() -> None:
    lost = RECORD | {"outcome": "failed", "predictions": 0, "held": 0, "reason": "no lowering"}
    summary = summarize([RECORD, lost | {"test": "b"}], "optimized")
    assert (summary.executed, summary.passed, summary.unlisted) == (2, 1, ("b",))
    assert not summary.ok


def test_a_case_that_coremltools_converts_itself_does_not_count() -> None:
    summary = summarize([RECORD | {"compared": 0, "held": 0}], "optimized")
    assert (summary.executed, summary.without_prediction) == (0, {"passed": 1})


def test_a_case_whose_comparisons_held_passes_whatever_operators_it_asks_for() -> None:
    picky = RECORD | {"outcome": "failed"}
    half = RECORD | {"test": "b", "outcome": "failed", "compared": 2}
    summary = summarize([picky, half], "optimized")
    assert (summary.executed, summary.passed, summary.other_operators) == (2, 1, 1)


def test_a_sample_passes(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    pytest.importorskip("scipy")
    log = tmp_path / "log.jsonl"
    run("optimized", log, sample=SAMPLE, fp32=True)
    summary = summarize(read(log).values(), "optimized")
    assert summary.executed >= SAMPLE // 2
    assert not summary.unlisted, summary.failed
