"""Equal programs have equal digests, and others have not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from frontend.capturing import capture
from lowering.ablation.digest import Digester, code_digest, text_digest
from tests.lowering.ablation.ablation_models import Mlp

X = torch.ones(1, 4, 8)


def digest(model: nn.Module, x: torch.Tensor = X) -> str:
    return Digester().program(capture(model, (x,)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Mlp()


def test_the_same_again(model):
    assert digest(model) == digest(copy.deepcopy(model))
    both = Digester()
    program = capture(model, (X,))
    assert both.program(program) == both.program(program) == digest(model)


def test_saving_keeps_it(model, tmp_path):
    program = capture(model, (X,))
    torch.export.save(program, tmp_path / "a.pt2")
    assert Digester().program(torch.export.load(tmp_path / "a.pt2")) == digest(model)


def test_a_weight_changes_it(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.second.bias[3] += 1e-6
    assert digest(other) != digest(model)


def test_swapped_weights_change_it():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    swapped = nn.Sequential(model[1], model[0])
    assert digest(model) != digest(swapped)


def test_shapes_and_operators_change_it(model):
    assert digest(model, torch.ones(1, 5, 8)) != digest(model)

    class Other(Mlp):
        def forward(self, x):
            return self.second(torch.sigmoid(self.first(x)))

    other = Other()
    other.load_state_dict(model.state_dict())
    assert digest(other) != digest(model)


def test_a_constant_in_a_call_changes_it():
    class Scaled(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, x):
            return x * self.factor

    assert digest(Scaled(2.0)) != digest(Scaled(3.0))


def test_texts_do_not_run_together():
    assert text_digest("ab", "c") != text_digest("a", "bc")
    assert code_digest() == code_digest()
