"""torch.cond in an exported program becomes both branches and a selection."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from passes.branches_to_where import BranchesToWhere
from passes.eliminate_common import EliminateCommon
from tests.passes.util import (
    assert_differs_when_perturbed,
    assert_same,
    count,
    outputs,
    reasons,
    run_pass,
    seeded,
)

aten = torch.ops.aten
COND = torch.ops.higher_order.cond
WHERE = aten.where.self
CASES = [seeded(2, 3, seed=seed) for seed in range(12)]


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("shift", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x):
        def up(t):
            return self.linear(t), t.cos() + self.shift

        def down(t):
            inner = torch.cond(t[0, 0] > 0, lambda u: u * 2, lambda u: u.neg(), (t,))
            return t.sin(), inner.max(dim=0).values.expand(2, 3) + 0

        a, b = torch.cond(x.sum() > 0, up, down, (x,))
        return a + b


class Single(nn.Module):
    """One cond over two functions of x."""

    def __init__(self, condition, up, down):
        super().__init__()
        self.condition, self.up, self.down = condition, up, down

    def forward(self, x):
        return torch.cond(self.condition(x), self.up, self.down, (x,))


def exported(model, x=CASES[0], dynamic_shapes=None):
    return torch.export.export(model, (x,), strict=False, dynamic_shapes=dynamic_shapes)


@pytest.fixture(scope="module")
def branches():
    model = Branches()
    return model, exported(model)


def test_inlines_nested_branches(branches):
    model, program = branches
    before, after, (report,) = run_pass(program, None, BranchesToWhere())
    assert count(before, COND) == 1
    assert count(after, COND) == 0
    assert count(after, WHERE) == 3
    assert (report.rewrites, report.declined) == (1, ())
    assert not list(after.graph_module.children())
    for x in CASES:
        assert_same(model, after, x, rtol=0, atol=0)
    assert {bool(x.sum() > 0) for x in CASES} == {True, False}


def test_the_comparison_can_fail(branches):
    model, program = branches
    _, after, _ = run_pass(program, None, BranchesToWhere())
    positive = next(x for x in CASES if x.sum() > 0)
    assert_differs_when_perturbed(after, model, positive)
    (first, *_) = [n for n in after.graph.nodes if n.target is WHERE]
    first.args = (first.args[0], first.args[2], first.args[1])
    after.graph_module.recompile()
    with pytest.raises(AssertionError):
        for x in CASES:
            assert_same(model, after, x)


def test_nodes_say_where_they_come_from(branches):
    _, program = branches
    _, after, _ = run_pass(program, None, BranchesToWhere())
    linear = next(n for n in after.graph.nodes if n.target is aten.linear.default)
    where = next(n for n in after.graph.nodes if n.target is WHERE)
    # The exporter has lost the lines inside the branches: it traced them through Dynamo.
    assert "torch.cond(x.sum() > 0, up, down, (x,))" in linear.meta["stack_trace"]
    assert "torch.cond(x.sum() > 0, up, down, (x,))" in where.meta["stack_trace"]
    assert linear.meta["rewritten_by"] == where.meta["rewritten_by"] == ("branches_to_where",)


def test_what_the_branches_share_can_be_merged():
    model = Single(lambda x: x.sum() > 0, lambda x: x.exp() + 1, lambda x: x.exp() - 1)
    _, after, _ = run_pass(exported(model), None, BranchesToWhere(), EliminateCommon())
    assert count(after, aten.exp.default) == 1


def test_the_branch_not_taken_leaks_nothing():
    model = Single(lambda x: x.sum() > 0, lambda x: x / 0, lambda x: x - 1)
    _, after, _ = run_pass(exported(model), None, BranchesToWhere())
    for x in CASES:
        assert_same(model, after, x, rtol=0, atol=0)
        if x.sum() <= 0:
            assert outputs(after, x)[0].isfinite().all()


def test_a_condition_of_one_element():
    model = Single(lambda x: (x.sum() > 0).reshape(1), lambda x: x.sum(), lambda x: x.mean())
    _, after, (report,) = run_pass(exported(model), None, BranchesToWhere())
    assert report.rewrites == 1
    for x in CASES:
        assert_same(model, after, x)


def test_a_constant_condition_keeps_one_branch():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("flag", torch.tensor(False))

        def forward(self, x):
            return torch.cond(self.flag, lambda t: t.exp(), lambda t: t.sin(), (x,))

    _, after, (report,) = run_pass(exported(Model()), None, BranchesToWhere())
    assert report.rewrites == 1
    assert count(after, WHERE, aten.exp.default) == 0
    assert count(after, aten.sin.default) == 1
    for x in CASES:
        assert_same(Model(), after, x, rtol=0, atol=0)


def test_dynamic_sizes():
    model = Single(lambda x: x.sum() > 0, lambda x: x.softmax(-1), lambda x: x * x.shape[0])
    program = exported(model, seeded(5, 3), dynamic_shapes=({0: torch.export.Dim("n", min=2)},))
    _, after, (report,) = run_pass(program, None, BranchesToWhere())
    assert (report.rewrites, report.declined) == (1, ())
    for rows in (2, 5, 9):
        for seed in range(4):
            assert_same(model, after, seeded(rows, 3, seed=seed))


def test_declines_results_of_two_shapes():
    model = Single(lambda x: x.sum() > 0, lambda x: x[:2] * 2, lambda x: x[:1] * 2)
    _, after, (report,) = run_pass(exported(model), None, BranchesToWhere())
    assert count(after, COND) == 1
    assert report.rewrites == 0
    assert reasons(report) == ["its branches return float32 (2, 3) and float32 (1, 3)"]
    for x in CASES:
        assert_same(model, after, x)


def test_declines_a_condition_on_sizes():
    model = Single(lambda x: x.shape[0] > 4, lambda x: x + 1, lambda x: x - 1)
    program = exported(model, seeded(5, 3), dynamic_shapes=({0: torch.export.Dim("n")},))
    _, after, (report,) = run_pass(program, None, BranchesToWhere())
    assert count(after, COND) == 1
    assert "depends on sizes" in reasons(report)[0]


def test_a_module_needs_no_pass():
    model = Branches()
    before, after, (report,) = run_pass(model, CASES[0], BranchesToWhere())
    assert count(before, COND) == 0
    assert (report.rewrites, report.declined) == (0, ())
    assert count(after, WHERE) == 3
    for x in CASES:
        assert_same(model, after, x, rtol=0, atol=0)
