"""The runner: order, reports, and errors that name the pass that broke something."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from frontend.capturing import capture
from passes import DEFAULT_PIPELINE, InvariantError, Pass, PassError, optimize_for_ane
from passes.linear_to_conv1x1 import LinearToConv1x1
from passes.pipeline import run
from tests.passes.util import Function, assert_same, count, run_pass, seeded

aten = torch.ops.aten
X = seeded(2, 5, 8)


@dataclass(frozen=True)
class Break(Pass):
    """A pass that does with the first relu what a test tells it to."""

    name: ClassVar[str] = "break_it"
    how: object

    def apply(self, rw):
        (relu,) = rw.find(aten.relu.default)
        with rw.at(relu):
            self.how(rw, relu)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(8, 8)

    def forward(self, x):
        h = self.inner(x)
        return torch.relu(h)


def test_a_pass_of_ones_own_needs_a_name_and_apply_alone():
    class Mine(Pass):
        name = "mine"

        def apply(self, rw):
            rw.note("was here")

    _, (report,) = run(capture(Net(), (X,)), (Mine(),))
    assert (report.notes, report.options) == (("was here",), {})


def test_an_empty_pipeline_changes_nothing():
    optimized = optimize_for_ane(Net(), (X,), pipeline=())
    assert optimized.reports == ()
    assert_same(Net(), optimized, X)


def test_the_same_pass_twice_finds_nothing_more():
    _, after, (first, second) = run_pass(Net(), X, LinearToConv1x1(), LinearToConv1x1())
    assert (first.rewrites, second.rewrites, count(after, aten.convolution.default)) == (1, 0, 1)


# --- reports --------------------------------------------------------------------------------


def test_reports_count_and_explain():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(8, 3)

        def forward(self, x):
            return nn.functional.linear(x, x[0, :3]) + self.inner(x)

    model = Mixed()
    _, _, (report,) = run_pass(model, X, LinearToConv1x1())
    assert (report.name, report.rewrites, len(report.declined)) == ("linear_to_conv1x1", 1, 1)
    assert report.options == {"tied": "keep"}
    assert report.ops_before["aten.linear.default"] == 2
    assert report.ops_after["aten.linear.default"] == 1
    assert report.ops_after["aten.convolution.default"] == 1
    (declined,) = report.declined
    assert declined.op == "aten.linear.default"
    assert "test_pipeline.py" in declined.source.line and "x[0, :3]" in declined.source.line
    assert "its weight is computed from an input" in declined.reason


def test_reports_are_json():
    import json

    optimized = optimize_for_ane(Net(), (X,))
    told = json.loads(json.dumps([report.to_json() for report in optimized.reports]))
    assert [r["name"] for r in told] == [step.name for step in optimized.pipeline]
    assert all(r["seconds"] >= 0 for r in told)


def test_bytes_added_are_counted_once():
    def fold(rw, relu):
        rw.replace(relu, rw.emit(aten.add.Tensor, relu.args[0], rw.constant("big", torch.ones(8))))

    _, (report,) = run(capture(Net(), (X,)), (Break(fold),))
    assert report.bytes_added == 32


# --- broken passes --------------------------------------------------------------------------


def assert_names_the_place(error):
    assert error.message.startswith("pass break_it")
    assert "test_pipeline.py" in error.details["source"]
    assert "torch.relu(h)" in error.details["source"]


def broken(how):
    with pytest.raises(InvariantError) as caught:
        run(capture(Net(), (X,)), (Break(how),))
    return caught.value


def test_another_shape_is_caught():
    error = broken(lambda rw, relu: rw.replace(relu, rw.emit(aten.sum.dim_IntList, relu, [0])))
    assert_names_the_place(error)
    assert error.details["expected"] == "torch.float32 (2, 5, 8)"
    assert "torch.float32 (5, 8)" in error.details["found"]
    assert error.details["op"] == "aten.relu.default"


def test_another_dtype_is_caught():
    error = broken(lambda rw, relu: rw.replace(relu, rw.emit(aten.gt.Scalar, relu, 0)))
    assert_names_the_place(error)
    assert "torch.bool" in error.details["found"]


def test_operators_that_do_not_fit_are_caught():
    error = broken(lambda rw, relu: rw.emit(aten.mm.default, relu, relu))
    assert_names_the_place(error)
    assert error.details["op"] == "aten.mm.default"


def test_an_output_of_another_shape_is_caught():
    """Edits past the Rewriter are found by the check of the signature."""

    def how(rw, relu):
        relu.replace_all_uses_with(rw.emit(aten.sum.dim_IntList, relu.args[0], [0]))

    error = broken(how)
    assert error.message == "pass break_it changed the program's outputs"
    assert "(2, 5, 8)" in error.details["expected"] and "(5, 8)" in error.details["found"]


def test_a_stale_shape_is_caught():
    def how(rw, relu):
        wide = rw.emit(aten.unsqueeze.default, relu.args[0], 0)
        double = rw.emit(aten.add.Tensor, relu.args[0], relu.args[0])
        rw.replace(relu, rw.emit(aten.relu.default, double))
        double.args = (wide, double.args[1])

    assert "stale shape" in broken(how).message


def test_a_value_used_before_it_is_defined_is_caught():
    def how(rw, relu):
        double = rw.emit(aten.add.Tensor, relu.args[0], relu.args[0])
        rw.replace(relu, double)
        double.args = (relu, relu)

    assert broken(how).message == "pass break_it left an invalid graph"


def test_emitting_nowhere_is_caught():
    @dataclass(frozen=True)
    class Nowhere(Pass):
        name: ClassVar[str] = "nowhere"

        def apply(self, rw):
            rw.emit(aten.relu.default, rw.user_inputs()[0])

    with pytest.raises(InvariantError, match=r"outside Rewriter\.at"):
        run(capture(Net(), (X,)), (Nowhere(),))


def test_merging_different_operators_is_caught():
    error = broken(lambda rw, relu: rw.merge(relu, rw.emit(aten.neg.default, relu.args[0])))
    assert_names_the_place(error)
    assert error.details["found"] == "aten.neg.default"


def test_another_shape_for_one_user_is_caught():
    def how(rw, relu):
        rw.use_instead(rw.output, relu, rw.emit(aten.unsqueeze.default, relu.args[0], 0))

    error = broken(how)
    assert_names_the_place(error)
    assert error.details["next step"] == "mend the pass, or leave it out of the pipeline"


@pytest.mark.parametrize(
    "how, message",
    [
        (lambda rw, relu: relu.args[7], "IndexError: tuple index out of range"),
        (lambda rw, relu: {"y": relu}["x"], "KeyError: 'x'"),
        (lambda rw, relu: rw.graph, "AttributeError: 'Rewriter' object has no attribute 'graph'"),
    ],
)
def test_a_pass_that_raises_is_named_with_both_places(how, message):
    with pytest.raises(PassError) as caught:
        optimize_for_ane(Net(), (X,), pipeline=(Break(how),))
    error = caught.value
    assert_names_the_place(error)
    assert message in error.message
    assert error.details["next step"] == "mend the pass, or leave it out of the pipeline"


def test_the_line_of_the_pass_is_named():
    def how(rw, relu):
        raise ZeroDivisionError

    with pytest.raises(PassError, match="pass break_it failed: ZeroDivisionError") as caught:
        run(capture(Net(), (X,)), (Break(how),))
    assert caught.value.details["found"].endswith(" raise ZeroDivisionError")


# --- numbers --------------------------------------------------------------------------------


def doubled(rw, relu):
    rw.replace(relu, rw.emit(aten.mul.Tensor, relu.args[0], 2.0))


def slightly_off(rw, relu):
    off = rw.emit(aten.mul.Tensor, relu.args[0], 1 + 1e-4)
    rw.replace(relu, rw.emit(aten.relu.default, off))


@pytest.mark.parametrize("how", [doubled, slightly_off])
def test_verify_catches_other_numbers(how):
    optimize_for_ane(Net(), (X,), pipeline=(Break(how),))  # shapes are right
    with pytest.raises(InvariantError, match="pass break_it changed the numbers of output"):
        optimize_for_ane(Net(), (X,), pipeline=(Break(how),), verify=True)


def test_verify_looks_at_other_inputs_too():
    """Inputs of all zeros hide a wrong factor; random ones do not."""

    def how(rw, relu):
        rw.replace(relu, rw.emit(aten.mul.Tensor, relu.args[0], 3.0))

    model = nn.Sequential(nn.ReLU())
    with pytest.raises(InvariantError, match="changed the numbers"):
        optimize_for_ane(model, (torch.zeros(2, 3),), pipeline=(Break(how),), verify=True)


def test_verify_passes_what_is_right():
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Net()
            self.register_buffer("total", torch.zeros(2, 5, 8))

        def forward(self, x):
            self.total += self.inner(x)
            return self.total * 1

    for model in (Net(), Stateful()):
        optimize_for_ane(model, (X,), verify=True)
    optimize_for_ane(Net().bfloat16(), (X.bfloat16(),), verify=True)


def test_nan_and_infinity_must_stay_where_they_are():
    from passes.numerics import close

    want = torch.tensor([1.0, float("nan"), float("inf"), -2.0])
    assert close(want, want.clone())
    for place, value in [(1, 0.0), (2, 1e30), (0, float("nan")), (3, -2.001), (2, -float("inf"))]:
        have = want.clone()
        have[place] = value
        assert not close(want, have)
    assert not close(want, want.double()) and not close(want, want[:3])
    assert not close(torch.tensor([1, 2]), torch.tensor([1, 3]))


def test_the_program_given_is_left_alone():
    program = capture(Net(), (X,))
    text, weights = str(program.graph), dict(program.state_dict)
    run(program, DEFAULT_PIPELINE)
    assert str(program.graph) == text
    assert all(program.state_dict[name] is tensor for name, tensor in weights.items())


@dataclass(frozen=True)
class AsksForASize(Pass):
    name: ClassVar[str] = "asks_for_a_size"

    def apply(self, rw):
        """Rewrites nothing, but branches on sizes."""
        for node in rw.nodes():
            if isinstance(node.meta.get("val"), torch.Tensor) and node.meta["val"].numel() > 1:
                rw.note("large")


def test_a_pass_that_asks_for_a_size_that_depends_on_data_is_left_out():
    program = capture(Function(lambda m, x: x[x > 0] * 2), (torch.tensor([1.0, -1.0, 2.0]),))
    after, (report,) = run(program, (AsksForASize(),))
    assert report.rewrites == 0 and "depends on data" in report.notes[0]
    assert_same(Function(lambda m, x: x[x > 0] * 2), after, torch.tensor([1.0, 1.0, 2.0]))
