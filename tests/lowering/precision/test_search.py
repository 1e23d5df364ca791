"""The search for operators that must stay in float32, on errors that are known."""

import pytest

from lowering.precision.search import Search

NAMES = [f"op{number}" for number in range(100)]


def spoiled_by(*culprits):
    return lambda halves: 50.0 if set(culprits) & set(halves) else 0.3


@pytest.mark.parametrize("culprits", [(), ("op0",), ("op7", "op8"), ("op3", "op50", "op99")])
def test_culprits_are_found_and_nothing_else(culprits):
    search = Search(NAMES, spoiled_by(*culprits))
    assert search.pins() == culprits
    assert search.runs < 60
    assert not search.is_cut_short


def test_errors_that_add_up():
    """No operator misses the bound alone: as many go as must."""
    loud = set(NAMES[:6])

    def share(halves):
        return sum(0.3 if name in loud else 0.001 for name in halves)

    pins = Search(NAMES, share).pins()
    assert set(pins) <= loud
    left = [name for name in NAMES if name not in pins]
    assert share(left) <= 1
    assert all(share([*left, pin]) > 1 for pin in pins)


def test_either_of_two():
    """Where one of two in float32 is enough, one is."""
    pins = Search(NAMES, lambda halves: 9.0 if {"op1", "op2"} <= set(halves) else 0.1).pins()
    assert len(pins) == 1


def test_what_float32_cannot_reach_is_no_reason_to_pin():
    """Inputs and outputs in float16 alone miss the bound; the rest is as good as float32."""
    assert Search(NAMES, lambda halves: 3.0).pins() == ()
    pins = Search(NAMES, lambda halves: 8.0 if "op4" in halves else 3.0).pins()
    assert pins == ("op4",)


def test_runs_are_limited():
    search = Search(NAMES, spoiled_by(*NAMES[::2]), max_runs=20)
    assert set(search.pins()) >= set(NAMES[::2])
    assert search.is_cut_short
