"""One plain run with every operator seen."""

import pytest
import torch
from torch import nn

from frontend.eager import run_eagerly

aten = torch.ops.aten


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(1)
        offset = int(self.calls)  # known without the inputs
        return self.linear(x) + offset


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.drop = Block(), nn.Dropout(0.5)

    def forward(self, x):
        x.mul_(2)
        y = self.drop(self.block(x))
        return y * float(y.sum())


def seen(model, *inputs):
    found = []
    run_eagerly(model, inputs, {}, found.append)
    return found


def test_operators_are_those_that_export_records():
    ops = [op.target for op in seen(Model(), torch.ones(2, 3))]
    assert aten.linear.default in ops and aten.addmm.default not in ops


def test_each_knows_its_place():
    linear = next(op for op in seen(Model(), torch.ones(2, 3)) if op.target is aten.linear.default)
    assert linear.module == "block" and linear.line.endswith("return self.linear(x) + offset")
    mul = next(op for op in seen(Model(), torch.ones(2, 3)) if op.target is aten.mul_.Tensor)
    assert mul.module == "" and mul.line.endswith("x.mul_(2)") and mul.writes_input


def test_what_depends_on_the_inputs_is_told_apart():
    items = [op for op in seen(Model(), torch.ones(2, 3)) if op.target is aten.item.default]
    assert [op.on_data for op in items] == [False, True]


def test_nothing_is_left_behind():
    model, x = Model().train(), torch.ones(2, 3)
    run_eagerly(model, (x,), {}, lambda op: None)
    assert torch.equal(x, torch.ones(2, 3)) and float(model.block.calls) == 0
    assert model.training and model.drop.training


def test_what_the_model_raises_is_raised():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        seen(nn.Linear(5, 2), torch.ones(2, 3))
