"""Every Python construct that asks a tensor for its truth value, against the module itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.frontend.branch_harness import (
    assert_same,
    compare,
    count,
    export,
    function_module,
    random_cases,
)

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
