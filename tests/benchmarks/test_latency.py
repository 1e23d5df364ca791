"""The published comparisons of forms, and how far the fit predicts models that it never saw."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from benchmarks import latency_fit
from benchmarks.latency_orderings import NOT_ASKED, judge, orderings
from lowering.planner.latency import fitted


@pytest.fixture(scope="module")
def fit():
    return latency_fit.fit(latency_fit.read_rows())


def _spread(chip):
    return fitted()["chips"][chip]["interval_factor"]


def _new_model_rms(chip, word):
    errors = [
        row["new_model_ms"] / row["measured_ms"] - 1
        for row in fitted()["residuals"]
        if row["chip"] == chip and word in row["program"]
    ]
    return math.sqrt(sum(error**2 for error in errors) / len(errors))


@pytest.mark.parametrize(("chip", "word", "bound"), [("M2", "", 0.10), ("M5 Pro", "Whisper", 0.08)])
def test_models_left_out_are_predicted(chip, word, bound):
    assert 0 < _new_model_rms(chip, word) <= bound


def test_no_published_order_is_wrong_beyond_the_interval(fit):
    wrong = [entry for entry in judge(fit, _spread) if entry.verdict == "wrong"]
    assert wrong == []


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({"products": 1.0}, "O30"),
        ({"region_ms": 5.0}, "O15"),
        ({"traffic_bytes_per_s": 1e13}, "O10"),
    ],
)
def test_a_model_without_the_term_gets_an_order_wrong(fit, change, broken):
    worse = replace(fit, rates=replace(fit.rates, **change))
    verdicts = {entry.ordering.id: entry.verdict for entry in judge(worse, lambda chip: 1.05)}
    assert verdicts[broken] == "wrong"


def test_every_ordering_is_asked_or_told_why_not():
    asked = {ordering.id for ordering in orderings()}
    assert len(asked) + len(NOT_ASKED) == 22
    assert not asked & NOT_ASKED.keys()


def test_rows_left_out_give_their_reason():
    left = json.loads(latency_fit.ROWS.read_text("utf-8"))["left_out"]
    assert all(row["reason"] for row in left)
    taken = {row.id for row in latency_fit.read_rows()}
    assert not taken & {row["id"] for row in left}
