"""Models that float16 harms."""

import pytest

from benchmarks.fp16_cases import Outcome, cases, outcome


@pytest.mark.parametrize(
    ("passed", "rules", "silent"),
    [(False, (), True), (False, ("fp16-overflow",), False), (True, (), False)],
)
def test_silent_is_a_failure_without_a_finding(passed, rules, silent):
    assert Outcome(1.0, None, passed, rules).silent is silent


def test_there_are_cases_of_each_kind_and_their_numbers_repeat():
    first, second = cases(), cases()
    assert len({case.name for case in first}) == len(first) >= 23
    for one, other in zip(first, second, strict=True):
        assert all((a == b).all() for a, b in zip(one.example, other.example, strict=True))


def test_an_outcome_has_the_worst_call():
    found = {case.name: case for case in cases()}
    overflowed, fine = outcome(found["mean of squares"]), outcome(found["mish"])
    assert not overflowed.passed and "fp16-overflow" in overflowed.rules
    assert fine.passed and fine.error < 1e-3
