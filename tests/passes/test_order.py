"""Pipelines that cannot work are refused with every reason; a pass more finds its place."""

from dataclasses import dataclass, field

import pytest

from passes import (
    DEFAULT_PIPELINE,
    AtSites,
    OrderError,
    Pass,
    default_pipeline,
    optimize_for_ane,
)
from passes.canonical_linear import CanonicalLinear
from passes.fuse_attention import FuseAttention
from passes.layout.assign_layout import AssignLayout
from passes.linear_to_conv1x1 import LinearToConv1x1
from passes.order import check_order, with_pass
from passes.split_attention import SplitAttention


@dataclass(frozen=True)
class Mine(Pass):
    """Does nothing, at a place that it declares."""

    name: str = "mine"  # type: ignore[misc]
    runs_after: dict = field(default_factory=dict)  # type: ignore[misc]
    runs_before: dict = field(default_factory=dict)  # type: ignore[misc]

    def apply(self, rw):
        pass


def test_the_default_pipelines_are_in_order():
    for form in ("split", "batched", "native"):
        check_order(default_pipeline(attention=form))


def test_what_passes_declare_names_passes_that_exist():
    known = {step.name for step in DEFAULT_PIPELINE}
    named = {name for step in DEFAULT_PIPELINE for name in (*step.runs_after, *step.runs_before)}
    assert named and named <= known


def test_all_violations_are_listed():
    backwards = (AssignLayout(), LinearToConv1x1(), SplitAttention(), FuseAttention())
    with pytest.raises(OrderError) as caught:
        check_order(backwards)
    found = caught.value.details["found"]
    for rule in (
        "fuse_attention must come before split_attention: ",
        "split_attention must come before assign_layout: ",
        "linear_to_conv1x1 must come before assign_layout: ",
    ):
        assert rule in found
    assert found.count("must come before") == 3


@pytest.mark.parametrize(
    "pipeline, rule",
    [
        ((Mine(runs_after={"split_attention": "why"}), SplitAttention()),
         "split_attention must come before mine: why"),
        ((SplitAttention(), Mine(runs_before={"split_attention": "why"})),
         "mine must come before split_attention: why"),
        ((AssignLayout(), AtSites(LinearToConv1x1(), ("a",))),
         "linear_to_conv1x1 must come before assign_layout: "),
    ],
)  # fmt: skip
def test_what_a_pass_declares_is_checked(pipeline, rule):
    with pytest.raises(OrderError) as caught:
        check_order(pipeline)
    assert rule in caught.value.details["found"]
    check_order(pipeline[::-1])


def test_order_is_checked_before_anything_runs():
    with pytest.raises(OrderError):
        optimize_for_ane(None, pipeline=(AssignLayout(), LinearToConv1x1()))


class Alike:
    """Has what a pass has, and is none."""

    name = "alike"

    def apply(self, rw):
        pass


@pytest.mark.parametrize(
    "value", [LinearToConv1x1, "linear_to_conv1x1", None, len, (AssignLayout(),), Alike()]
)
def test_what_is_no_pass_is_refused(value):
    with pytest.raises(OrderError, match="something that is no pass") as caught:
        check_order((AssignLayout(), value))
    assert repr(value) in caught.value.details["found"]
    assert "passes.Pass" in caught.value.details["expected"]


def test_a_pass_without_a_name_is_refused():
    class Nameless(Pass):
        def apply(self, rw):
            pass

    with pytest.raises(OrderError, match="a pass has no name") as caught:
        check_order((Nameless(),))
    assert "Nameless" in caught.value.details["found"]


@pytest.mark.parametrize(
    "pipeline", [LinearToConv1x1(), LinearToConv1x1, "linear_to_conv1x1", None, 3]
)
def test_one_pass_is_no_pipeline(pipeline):
    with pytest.raises(OrderError, match="a pipeline is a sequence of passes") as caught:
        optimize_for_ane(None, pipeline=pipeline)
    assert "(LinearToConv1x1(),)" in caught.value.details["expected"]
    assert caught.value.details["found"] == repr(pipeline)


def test_any_sequence_is_a_pipeline():
    for pipeline in ([LinearToConv1x1()], (step for step in (LinearToConv1x1(),))):
        assert check_order(pipeline) == (LinearToConv1x1(),)


def test_a_pass_more_finds_its_place():
    pipeline = (FuseAttention(), CanonicalLinear(), LinearToConv1x1(), AssignLayout())

    def place(**declared):
        longer = with_pass(pipeline, Mine(**declared))
        check_order(longer)
        assert tuple(step for step in longer if step.name != "mine") == pipeline
        return [step.name for step in longer].index("mine")

    assert place() == 0
    assert place(runs_after={"canonical_linear": ""}) == 2
    assert place(runs_before={"linear_to_conv1x1": ""}) == 2
    assert place(runs_after={"fuse_attention": ""}, runs_before={"assign_layout": ""}) == 1
    assert place(runs_after={"absent": ""}) == 0


def test_what_others_declare_of_it_counts_as_well():
    assert with_pass((AssignLayout(),), SplitAttention()) == (SplitAttention(), AssignLayout())
    assert with_pass((FuseAttention(),), SplitAttention()) == (FuseAttention(), SplitAttention())
