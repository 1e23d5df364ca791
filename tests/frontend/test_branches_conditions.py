"""Conditions of every kind, dynamic shapes, torch.cond, and what stays as it was."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from frontend.branches import BranchError, UncheckedPathWarning
from tests.frontend.branch_harness import (
    assert_same,
    compare,
    count,
    export,
    function_module,
    random_cases,
)
from tests.frontend.test_branches import if_else

WHERE = torch.ops.aten.where.self
CASES = random_cases((2, 3))


def test_a_constant_condition_is_no_branch():
    def forward(self, x):
        mask = torch.ones(2, 3)
        if mask.all() and torch.tensor([2, 3]).tolist() == [2, 3] and torch.arange(4).max().item():
            return x + 1
        return x - 1

    assert count(assert_same(function_module(forward), CASES), WHERE) == 0


def test_a_constant_that_was_written_is_data():
    def forward(self, x):
        mask = torch.ones(2, 3)
        mask[0] = x[0]
        return x + 1 if (mask > 0).all() else x - 1

    cases = [*CASES, (torch.ones(2, 3),)]
    assert count(assert_same(function_module(forward), cases), WHERE) == 1


WRITTEN_CONSTANTS = {
    "through_an_index": lambda mask, x: mask.__setitem__(mask == 1, -5.0),
    "itself": lambda mask, x: mask.mul_(-1).add_(torch.zeros(3)),
    "another": lambda mask, x: (mask.neg_(), x.clone().add_(1)),
    "by_a_view_whose_value_is_read": lambda mask, x: mask[0].fill_(-1),
}


@pytest.mark.parametrize("name", WRITTEN_CONSTANTS)
def test_a_constant_that_was_written_with_constants(name):
    def forward(self, x):
        mask = torch.ones(2, 3)
        before = mask + 1
        WRITTEN_CONSTANTS[name](mask, x)
        return x + 1 if (before * 2 + mask > 4).any() else x - 1

    program = assert_same(function_module(forward), CASES)
    # What a view wrote is found by asking the tensor itself only as data.
    assert count(program, WHERE) == ("view" in name)


def test_a_literal_of_the_model_is_not_written():
    def forward(self, x):
        mask = self.literal.clone()
        mask.mul_(-1)
        other = torch.tensor([1.0, 2.0])
        other.add_(1)
        return x + 1 if other.sum() > 4 else x - 1

    module = function_module(forward, literal=torch.ones(3))
    assert_same(module, CASES)
    assert_same(module, CASES)


def test_a_written_condition_is_asked_again():
    def forward(self, x):
        done = x.sum() > 0
        y = x + 1 if done else x - 1
        done |= x[0, 0] > 0
        return y * 2 if done else y * 3

    program = assert_same(function_module(forward), CASES)
    assert count(program, WHERE) == 3


def test_equal_expressions_of_tensors_that_came_apart():
    def forward(self, x):
        a, b = x + 1, x + 1
        a.view(-1)[0] = -50
        y = x * 2 if a.sum() > 0 else x * 3
        return y + 1 if b.sum() > 0 else y - 1

    assert_same(function_module(forward), CASES)


def test_an_alias_written_between_two_questions():
    def forward(self, x):
        flags = (x > 0).any(dim=1)
        first = flags[0]
        y = x * 2 if first else x * 3
        flags.logical_not_()
        return y + 1 if first else y - 1

    assert_same(function_module(forward), CASES)


def test_the_side_not_taken_leaks_nothing():
    def forward(self, x):
        if x.sum() > 0:
            return x / (x.sum() > 0)
        return (x - x) / (x.sum() > 0) + x / 0

    cases = [(torch.full((2, 3), v),) for v in (1.0, -1.0, math.inf)]
    program = assert_same(function_module(forward), cases)
    arithmetic = {torch.ops.aten.mul.Tensor, torch.ops.aten.add.Tensor}
    for where in program.graph.find_nodes(op="call_function", target=WHERE):
        assert not any(user.target in arithmetic for user in where.users)

    def log_of_negative(self, x):
        return x.log() if (x > 0).all() else x.sqrt().nan_to_num(5.0)

    assert_same(function_module(log_of_negative), [(torch.ones(3),), (-torch.ones(3),)])


def test_dynamic_shapes():
    def forward(self, x):
        return x.softmax(-1) if x.shape[0] > 2 and x.sum() > 0 else x * x.shape[0]

    length = torch.export.Dim("length", min=3, max=64)
    model = function_module(forward)
    program = export(model, torch.randn(7, 3), dynamic_shapes={"args": ({0: length},)})
    for rows in (3, 8, 20):
        x = torch.randn(rows, 3)
        compare(program.module()(x), model(x))


def test_questions_inside_torch_functional():
    def forward(self, x):
        return F.gaussian_nll_loss(x, x * 2, x.abs())

    with pytest.warns(UncheckedPathWarning, match="negative"):
        assert_same(function_module(forward), CASES)


def test_an_assert_is_assumed_to_hold():
    def forward(self, x):
        assert x.sum() < 1e6, "too large"
        torch._assert(x.min() > -1e6, "too small")
        torch._assert_async(x.mean() < 1e5, "too large on average")
        return x * 2

    with pytest.warns(UncheckedPathWarning) as caught:
        program = assert_same(function_module(forward), CASES)
    assert count(program, WHERE) == 0
    said = " ".join(str(w.message) for w in caught)
    assert "test_branches_conditions.py" in said and 'assert x.sum() < 1e6, "too large"' in said
    assert "torch._assert(x.min() > -1e6" in said
    assert "torch._assert_async(x.mean() < 1e5" in said
    assert "does not check it" in said


def test_a_raise_is_assumed_not_to_happen():
    def forward(self, x):
        if x.isnan().any():
            raise ValueError("NaN in the input")
        if x.sum() > 0:
            return x
        return x.abs()

    with pytest.warns(UncheckedPathWarning, match=r"conditions.py:\d+ raise ValueError"):
        program = assert_same(function_module(forward), CASES)
    assert count(program, WHERE) == 1


def test_many_asserts_cost_no_paths():
    def forward(self, x):
        for _ in range(33):
            x = x + 1
            assert x.isfinite().all()
        return x

    with pytest.warns(UncheckedPathWarning):
        assert_same(function_module(forward), CASES)


def test_dropout_across_paths():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = nn.Dropout(0.5)

        def forward(self, x):
            y = self.dropout(x)
            return y * 2 if x.sum() > 0 else self.dropout(y) - 1

    assert_same(Model().eval(), CASES)
    export(Model().train(), *CASES[0])  # a pass makes it an identity later


def test_torch_cond_is_resolved_in_place():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            def up(t):
                inner = torch.cond(t[0, 0] > 0, lambda u: u + torch.tensor(2.0), torch.neg, (t,))
                return {"a": self.linear(t), "b": inner}

            def down(t):
                return {"a": t / 0, "b": t.sin()}

            y = torch.cond(x.sum() > 0, up, down, (x,))
            if torch.cond(torch.tensor(True), lambda: x.mean(), lambda: x.sum()) > 0:
                return y["a"] * 2
            return y["b"]

    program = assert_same(Model(), CASES)
    assert not program.graph.find_nodes(op="get_attr", target="true_graph_0")


def test_torch_cond_with_results_of_two_shapes_is_refused():
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda t: t * 2, lambda t: t[:1] * 2, (x,))

    with pytest.raises(BranchError, match=r"the result of torch.cond different shapes"):
        export(function_module(forward), *CASES[0])


def test_submodules_and_weights():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x, *, scale=2.0):
            branch = self.a if x.sum() > 0 else self.b
            return branch(x) * scale

    assert_same(Model(), CASES)


def test_a_branch_under_no_grad_and_inference_mode():
    class Model(nn.Module):
        @torch.no_grad()
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x

    assert_same(Model(), CASES)


def test_sources_name_the_branch():
    program = export(function_module(if_else), *CASES[0])
    (where,) = program.graph.find_nodes(op="call_function", target=WHERE)
    assert "if x.sum() > 0:" in where.meta["stack_trace"]


def test_torch_modules_that_ask_by_themselves():
    from frontend.capturing import capture

    with pytest.warns(UncheckedPathWarning, match=r"functional.py:\d+ .*negative") as caught:
        capture(nn.GaussianNLLLoss(), (torch.ones(3), torch.zeros(3), torch.ones(3)))
    assert "capture.py" not in str(caught[0].message)


def test_torch_is_left_as_it_was():
    names = ("__bool__", "item", "__int__", "__float__", "__index__", "tolist", "numpy", "equal")
    before = {name: getattr(torch.Tensor, name) for name in names}
    functions = (torch.equal, torch.allclose, torch.is_nonzero)
    own = set(vars(torch.Tensor))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(function_module(if_else), *CASES[0])
        with pytest.raises(ZeroDivisionError):
            export(function_module(lambda self, x: 1 / 0), *CASES[0])
    assert {name: getattr(torch.Tensor, name) for name in names} == before
    assert (torch.equal, torch.allclose, torch.is_nonzero) == functions
    assert set(vars(torch.Tensor)) == own


def test_outside_an_export_it_is_a_plain_call():
    from frontend.branches import run_all_paths

    model = function_module(if_else)
    x: Any = torch.ones(2, 3)
    leaves, key = run_all_paths(lambda: ([model(x)], "tensor"), model)
    compare(leaves[0], x * 2)
    assert key == "tensor"
