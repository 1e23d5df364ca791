"""Capability, price and segmentation against dumps of Core ML's dispatcher (M4, macOS 27)."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import planner_accuracy
from lowering.planner import Capability, FactsError, OpFacts, UnknownChipError, price, segment
from lowering.planner.segmentation import path_cost, segment_costs


@pytest.fixture(scope="module")
def dispatch():
    return planner_accuracy.read_dispatch()


def test_capability_of_every_dumped_operator(dispatch):
    score = planner_accuracy.score_capability(dispatch)
    assert score.wrong == ()
    assert score.total == 215


def test_every_price_that_was_read(dispatch):
    score = planner_accuracy.score_prices(dispatch)
    assert score.right >= 0.98 * score.total, score.wrong
    assert score.total == 101


def test_placement_of_every_dumped_program(dispatch):
    score = planner_accuracy.score_programs(dispatch)
    assert score.wrong == ()
    assert score.total == 294


def test_the_scores_can_fail(dispatch):
    case, facts, platform, figures, how = dispatch.prices[0]
    dearer = {name: value and value * 1.01 for name, value in figures.items()}
    wrong = dataclasses.replace(
        dispatch,
        capability=tuple((case, op, not ane) for case, op, ane in dispatch.capability),
        prices=((case, facts, platform, dearer, how),),
        programs=tuple(
            (name, ops, ["ane" if d == "cpu" else "cpu" for d in where])
            for name, ops, where in dispatch.programs
        ),
    )
    assert planner_accuracy.score_capability(wrong).right == 0
    assert planner_accuracy.score_prices(wrong).right == 0
    assert planner_accuracy.score_programs(wrong).right < 0.1 * len(wrong.programs)


def test_a_price_does_not_depend_on_the_case_name(dispatch):
    row = {
        "op": "conv",
        "inputs": [{"shape": [1, 96, 20, 20], "dtype": "fp16"}],
        "output": {"shape": [1, 48, 20, 20], "dtype": "fp16"},
        "attrs": {"weight_shape": [48, 96, 1, 1]},
    }
    named = {**row, "case": "anything", "op_index": 3, "dtype": "fp16"}
    assert price(OpFacts.from_json(row)) == price(OpFacts.from_json(named))
    # 2 * 400 * 48 * 96 operations at the middle class of convolutions, 24.4 Mflop per MiB.
    assert price(OpFacts.from_json(row))["ane"] == pytest.approx(3.6864e6 / 7160.830078e9 * 1e3)


@pytest.mark.parametrize("row", [{}, {"op": "relu"}, {"op": "relu", "inputs": [1], "output": {}}])
def test_rows_that_are_no_operator(row):
    with pytest.raises(FactsError, match="does not describe an operator"):
        OpFacts.from_json(row)


@pytest.mark.parametrize("target", ["H16G", "M4", "m4", "H16G (M4)"])
def test_chips_and_platforms_name_the_same_prices(dispatch, target):
    facts = dispatch.prices[0][1]
    assert price(facts, target) == price(facts, "M4")


def test_unknown_chip():
    with pytest.raises(UnknownChipError, match="'Z80' is not a chip"):
        price(OpFacts("relu", (), ()), "Z80")


PRICES = st.floats(0.0, 0.5)
OPS = st.lists(st.tuples(st.booleans(), PRICES, PRICES), min_size=1, max_size=9)


def _chain(ops):
    prices = [{"ane": a if able else None, "bnns": c, "classic_cpu": 2 * c} for able, a, c in ops]
    return prices, [Capability(able) for able, _, _ in ops]


@settings(deadline=None)
@given(OPS)
def test_segmentation_is_the_cheapest_of_all_placements(ops):
    prices, able = _chain(ops)
    found = segment(prices, able)
    every = itertools.product(*[("ane", "cpu") if op[0] else ("cpu",) for op in ops])
    best = min(path_cost(devices, prices) for devices in every)
    assert path_cost(found, prices) == pytest.approx(best)
    assert all(op[0] for op, device in zip(ops, found, strict=True) if device == "ane")


@settings(deadline=None)
@given(OPS)
def test_costs_before_and_after_join_to_the_whole(ops):
    prices, able = _chain(ops)
    before, after = segment_costs(prices, able)
    whole = path_cost(segment(prices, able), prices)
    for left, right in zip(before, after, strict=True):
        assert min(left[0] + right[0], left[1] + right[1]) == pytest.approx(whole)


def test_an_empty_program_has_no_segments():
    assert segment([], []) == []


def test_prices_may_leave_the_ane_out():
    """The dumps have no ANE price where the ANE refuses."""
    prices = [{"bnns": 1.0, "classic_cpu": 2.0}, {"ane": 0.1, "bnns": 1.0, "classic_cpu": 2.0}]
    refused, able = Capability(False), Capability(True)
    assert segment(prices, [refused, able]) == ["cpu", "ane"]
    assert path_cost(["cpu", "ane"], prices) == pytest.approx(1.0 + 0.1 + 0.25)
