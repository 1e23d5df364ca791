"""Every Python construct that asks a tensor for its truth value, against the module itself."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from branch_harness import assert_same, compare, count, export, function_module, random_cases
from torch import nn

from frontend.branches import BranchError, UncheckedPathWarning

WHERE = torch.ops.aten.where.self
CASES = random_cases((2, 3))


def if_else(self, x):
    if x.sum() > 0:  # noqa: SIM108  # the statement is what is tested
        y = x * 2
    else:
        y = x - 1
    return y


def elif_chain(self, x):
    if x.sum() > 1:
        return x * 2
    if x.sum() > 0:
        y = x * 3
    elif x[0, 0] > 0:
        y = x * 4
    else:
        y = x * 5
    return y


def and_or_not(self, x):
    if (x.sum() > 0 and x[0, 0] > 0) or not x[1, 1] > 0:
        return x + 1
    return x - 1


def early_return(self, x):
    for row in x:
        if row.sum() > 1:
            return row
    return x[0] * 0


def ternary(self, x):
    return x.exp() if (x > 0).any() else x.neg()


def nested(self, x):
    if x[0, 0] > 0:
        if x[0, 1] > 0:  # noqa: SIM108
            y = x + 1
        else:
            y = x + 2
        y = y * 2
    elif x[0, 2] > 0:
        y = x + 3
    else:
        y = x
    if y.mean() > 0:
        y = y / 2
    return y


def same_question_twice(self, x):
    positive = x.sum() > 0
    y = x + 1 if positive else x - 1
    return y * 2 if positive else y * 3


def same_expression_twice(self, x):
    y = x + 1 if x.sum() > 0 else x - 1
    return y * 2 if x.sum() > 0 else y * 3


def bounded_while(self, x):
    steps = 0
    while steps < 3 and x.abs().sum() > 2:
        x = x / 2
        steps += 1
    return x


def break_and_continue(self, x):
    total = torch.zeros(())
    for row in x:
        if row[0] > 1:
            break
        if row[1] < 0:
            continue
        total = total + row.sum()
    return total


def item_of_bool(self, x):
    return x * 2 if (x > 0).all().item() else x


def is_nonzero(self, x):
    return x * 2 if torch.is_nonzero(x[0, 0].relu()) else x


def method_is_nonzero(self, x):
    return x * 2 if x[0, 0].relu().is_nonzero() else x


def equal(self, x):
    return x * 2 if torch.equal(x, x.abs()) else x


def equal_other_shape(self, x):
    return x * 2 if torch.equal(x, x[0]) else x


def allclose(self, x):
    return x * 2 if torch.allclose(x[0], x[1], atol=1.0) else x


def contains(self, x):
    return x * 2 if 0.0 in x.relu() else x


def int_of_bool(self, x):
    return x * (int(x[0, 0] > 0) + float(x[0, 1] > 0))


def index_by_bool(self, x):
    return (x.neg, x.exp)[x[0, 0] > 0]()


def sorted_by_bool(self, x):
    return x[0] if max([x[0, 0], x[1, 0]], key=lambda t: bool(t > 0)) > 0 else x[1]


def any_builtin(self, x):
    return x + 1 if any(row.sum() > 1 for row in x) else x - 1


def truth_of_number(self, x):
    return x + 1 if x[0, 0].round() else x - 1


def truth_of_one_element(self, x):
    return x + 1 if x[:1, :1] > 0 else x - 1


def caught_raise(self, x):
    try:
        if x.sum() > 0:
            raise ValueError("caught below")
        return x
    except ValueError:
        return x * 2


def nested_outputs(self, x):
    if x.sum() > 0:
        return {"a": x, "b": (x + 1, [x + 2])}
    return {"a": x * 2, "b": (x, [x - 2])}


def inputs_returned(self, x):
    return (x, x) if x.sum() > 0 else (x, x + 1)


def integers(self, x):
    codes = (x * 10).long()
    return codes // 2 if codes.sum() > 0 else codes * codes


CONSTRUCTS = [
    (if_else, 1),
    (elif_chain, 3),
    (and_or_not, None),
    (early_return, 2),
    (ternary, 1),
    (nested, None),
    (same_question_twice, 1),
    (same_expression_twice, 1),
    (bounded_while, 3),
    (break_and_continue, None),
    (item_of_bool, 1),
    (is_nonzero, 1),
    (method_is_nonzero, 1),
    (equal, 1),
    (equal_other_shape, 0),
    (allclose, 1),
    (contains, 1),
    (int_of_bool, None),
    (index_by_bool, 1),
    (sorted_by_bool, None),
    (any_builtin, None),
    (truth_of_number, 1),
    (truth_of_one_element, 1),
    (caught_raise, 1),
    (nested_outputs, 3),
    (inputs_returned, 1),
    (integers, 1),
]


@pytest.mark.parametrize(
    ("function", "wheres"), CONSTRUCTS, ids=lambda v: getattr(v, "__name__", "")
)
def test_construct(function, wheres):
    program = assert_same(function_module(function), CASES)
    if wheres is not None:
        assert count(program, WHERE) == wheres


def test_the_cases_take_both_sides():
    taken = {bool((function_module(if_else)(x) == x * 2).all()) for (x,) in CASES}
    assert taken == {True, False}


def test_the_comparison_can_fail():
    program = export(function_module(if_else), *CASES[0])
    for node in program.graph.find_nodes(op="call_function", target=WHERE):
        condition, a, b = node.args
        node.args = (condition, b, a)
    with pytest.raises(AssertionError):
        for case in CASES:
            compare(program.module()(*case), function_module(if_else)(*case))


def test_nothing_asked_costs_nothing():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.GELU())
    plain = torch.export.export(model, CASES[0], strict=False).run_decompositions({})
    ours = export(model, *CASES[0])
    assert [n.target for n in ours.graph.nodes if n.op == "call_function"] == [
        n.target for n in plain.graph.nodes if n.op == "call_function"
    ]


def test_nothing_asked_runs_once():
    runs = []
    program = export(function_module(lambda self, x: runs.append(1) or x + 1), *CASES[0])
    assert len(runs) == 1
    assert [n.target for n in program.graph.nodes if n.op == "call_function"] == [
        torch.ops.aten.add.Tensor
    ]


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
        return x * 2

    with pytest.warns(UncheckedPathWarning) as caught:
        program = assert_same(function_module(forward), CASES)
    assert count(program, WHERE) == 0
    said = " ".join(str(w.message) for w in caught)
    assert "test_branches.py" in said and 'assert x.sum() < 1e6, "too large"' in said
    assert "torch._assert(x.min() > -1e6" in said
    assert "does not check it" in said


def test_a_raise_is_assumed_not_to_happen():
    def forward(self, x):
        if x.isnan().any():
            raise ValueError("NaN in the input")
        if x.sum() > 0:
            return x
        return x.abs()

    with pytest.warns(UncheckedPathWarning, match=r"test_branches.py:\d+ raise ValueError"):
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
    from frontend.capture import capture

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
