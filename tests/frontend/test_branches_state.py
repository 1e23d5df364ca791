"""Buffers, inputs and attributes that branches write: every run starts afresh, ends are merged."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from frontend.branches import BranchError
from tests.frontend.branch_harness import (
    assert_same,
    compare,
    export,
    function_module,
    random_cases,
)

CASES = random_cases((2, 3))


def written_in_place(self, x):
    if x.sum() > 0:
        self.buf.add_(x[0])
    else:
        self.buf.copy_(x[1] * 2)
    return x + self.buf


def written_before_the_question(self, x):
    self.buf.add_(x.sum())
    if self.buf.sum() > 0:
        self.buf.mul_(2)
    return x + self.buf


def rebound(self, x):
    self.buf = self.buf + x[0]
    if self.buf.sum() > 0:
        self.buf = self.buf * 2
    return x + self.buf


def rebound_on_one_side_written_on_the_other(self, x):
    if x.sum() > 0:
        self.buf = x[0] * 2
    elif x[0, 0] > 0:
        self.buf.sub_(1)
        self.buf = self.buf * 3
    else:
        self.buf[1] = 7
    return x


def old_and_new_returned(self, x):
    old = self.buf
    self.buf = self.buf + 1
    if x.sum() > 0:
        self.buf = self.buf + x[0]
    return old, self.buf


def returned_then_written(self, x):
    before = self.buf
    view = self.buf[:2]
    if x.sum() > 0:
        self.buf.add_(1)
    return before, view, self.buf.clone()


def condition_is_the_buffer(self, x):
    if self.flag:
        self.flag.logical_not_()
        return x * 2
    self.flag.fill_(True)
    return x * 3


def condition_overwritten(self, x):
    if self.flag:  # noqa: SIM108
        y = x * 2
    else:
        y = x * 3
    self.flag.copy_(x.sum() > 0)
    return y + 1 if self.flag else y - 1


def input_written_in_a_branch(self, x):
    if x.sum() > 0:
        x += 1
    else:
        x[0] = 0
    return x * 2


def input_written_before(self, x):
    x.mul_(2)
    if x.sum() > 0:
        x.add_(1)
        return x
    return x[0]


FUNCTIONS = [
    written_in_place,
    written_before_the_question,
    rebound,
    rebound_on_one_side_written_on_the_other,
    old_and_new_returned,
    returned_then_written,
    condition_is_the_buffer,
    condition_overwritten,
    input_written_in_a_branch,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_state(function):
    flag = torch.tensor(True)
    model = function_module(function, buf=torch.tensor([1.0, -2.0, 3.0]), flag=flag)
    program = assert_same(model, CASES)
    written = program.graph_signature.buffers_to_mutate
    assert len(written) == len(set(written.values()))


@pytest.mark.parametrize("function", FUNCTIONS[:4], ids=lambda f: f.__name__)
def test_state_over_several_calls(function):
    model = function_module(function, buf=torch.zeros(3))
    packaged = export(copy.deepcopy(model), *CASES[0]).module()
    for (x,) in CASES:
        # Rebinding may alias an input in eager: give each its own.
        compare(packaged(x.clone()), model(x.clone()))
        compare(packaged.buf, model.buf)


class Counter(nn.Module):
    def __init__(self, rebind: bool) -> None:
        super().__init__()
        self.rebind = rebind
        self.register_buffer("n", torch.zeros(3))

    def forward(self, x):
        if self.rebind:
            self.n = self.n + x[0]
        else:
            self.n.add_(x[0])
        return self.n * 1


class Outer(nn.Module):
    def __init__(self, rebind: bool, branch: bool) -> None:
        super().__init__()
        self.inner, self.branch = Counter(rebind), branch

    def forward(self, x):
        if self.branch and x.sum() > 0:
            return x
        return x + self.inner(x)


@pytest.mark.parametrize("rebind", [False, True])
@pytest.mark.parametrize("branch", [False, True])
def test_buffers_of_submodules(rebind, branch):
    program = assert_same(Outer(rebind, branch), CASES)
    assert set(program.graph_signature.buffers_to_mutate.values()) == {"inner.n"}


def test_the_model_is_left_as_it_was():
    model = function_module(rebound, buf=torch.zeros(3))
    before = model.buf
    export(model, *CASES[0])
    assert model.buf is before
    compare(model.buf, torch.zeros(3))


def test_batch_norm_under_a_branch():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x):
            return self.norm(x) if x.sum() > 0 else x

    assert_same(Model().eval(), CASES)
    with pytest.raises(BranchError, match="running statistics are updated") as caught:
        export(Model().train(), *CASES[0])
    assert "model.eval()" in str(caught.value)


def test_one_path_left_keeps_its_writes():
    def forward(self, x):
        self.buf.add_(x[0])
        assert self.buf.isfinite().all()
        self.buf = self.buf * 2
        return self.buf

    with pytest.warns(UserWarning):
        assert_same(function_module(forward, buf=torch.zeros(3)), CASES)


def test_equal_attributes_are_kept_and_lists_undone():
    def forward(self, x):
        self.calls = 1
        self.seen = []
        self.seen.append(x)
        y = x * 2 if x.sum() > 0 else x - 1
        self.seen.append(y)
        return self.seen[0] + self.seen[1]

    assert_same(function_module(forward), CASES)


def test_a_list_that_grows_starts_afresh_on_every_path():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.log = []
            self.table = {}

        def forward(self, x):
            self.log.append(x)
            self.table["last"] = x
            if x.sum() > 0:
                x = x * 2
            return x * len(self.log)

    model = Model()
    program = export(model, *CASES[0])
    for (x,) in CASES:
        model.log.clear()
        compare(program.module()(x), model(x))


def test_attributes_that_differ_are_refused():
    def forward(self, x):
        if x.sum() > 0:
            self.mode = "up"
        else:
            self.mode = "down"
        return x

    with pytest.raises(BranchError, match="leave mode different") as caught:
        export(function_module(forward), *CASES[0])
    assert "'up' when true, 'down' when false" in str(caught.value)
    assert "if x.sum() > 0:" in str(caught.value)


def test_a_list_of_another_length_is_refused():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.log = []

        def forward(self, x):
            if x.sum() > 0:
                self.log.append(1)
            return x

    with pytest.raises(BranchError, match="leave log different"):
        export(Model(), *CASES[0])


def test_a_buffer_of_another_shape_is_refused():
    def forward(self, x):
        if x.sum() > 0:
            self.buf = torch.cat([self.buf, x[0]])
        return x

    with pytest.raises(BranchError, match="buf different shapes"):
        export(function_module(forward, buf=torch.zeros(3)), *CASES[0])


def test_an_input_returned_in_two_shapes_is_refused():
    with pytest.raises(BranchError, match="output 0 different shapes"):
        export(function_module(input_written_before), *CASES[0])


def test_a_plain_tensor_attribute_written_in_place_is_refused():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.plain = torch.zeros(3)

        def forward(self, x):
            if x.sum() > 0:
                self.plain.add_(1)
            return x + self.plain

    with pytest.raises(BranchError, match="no buffer is written in place") as caught:
        export(Model(), *CASES[0])
    assert "plain" in str(caught.value) and "register_buffer" in str(caught.value)


def test_a_tensor_from_elsewhere_written_in_place_is_refused():
    elsewhere = torch.zeros(3)

    def forward(self, x):
        if x.sum() > 0:
            elsewhere.add_(1)
        return x + elsewhere

    with pytest.raises(BranchError, match="neither state nor input") as caught:
        export(function_module(forward), *CASES[0])
    assert "elsewhere.add_(1)" in str(caught.value)
