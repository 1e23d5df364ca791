"""Names that are no Python: of submodules, weights and results."""

import pytest
import torch
from torch import nn

from frontend.capturing import capture
from frontend.program import runnable
from passes import optimize_for_ane

X = torch.randn(2, 4)


class Named(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name
        self.add_module(name, nn.Linear(4, 4))
        self.parts = nn.ModuleDict({name: nn.ModuleList([nn.Linear(4, 4)])})
        self.values = nn.ParameterDict({name: torch.randn(4)})
        self.register_buffer("state", torch.zeros(4))
        self.parts[name].register_buffer("state", torch.zeros(4))

    def forward(self, x):
        part = self.parts[self.name]
        part.state.add_(x[0])
        return part[0](getattr(self, self.name)(x)) + self.values[self.name] + part.state


@pytest.mark.parametrize("name", ["class", "None", "lambda", 'a "b"', "a b\\", "0-1", "self"])
def test_weights_of_any_name(name):
    model = Named(name)
    program = capture(model, (X,))
    with torch.no_grad():
        torch.testing.assert_close(runnable(program)(X)[0], model(X))
    assert list(model._modules) == [name, "parts", "values"]


def test_names_that_become_equal_stay_apart():
    model = nn.Sequential()
    for name in ("class", "class_", "class__"):
        model.add_module(name, nn.Linear(4, 4))
    program = capture(model, (X,))
    assert len(program.state_dict) == 6
    torch.testing.assert_close(runnable(program)(X)[0], model(X))


def test_an_exported_program_keeps_its_names():
    model = Named("class")
    exported = torch.export.export(model, (X,))
    names = list(exported.state_dict)
    capture(exported)
    assert list(exported.state_dict) == names


@pytest.mark.parametrize("key", ["self", "class", "torch", "pytree", "inf", "slice", "getattr"])
def test_results_of_any_name(key):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return {key: self.linear(x), "other": x + 1, f"{key}_out": x[:, :2]}

    model = Model()
    found, want = optimize_for_ane(model, (X,))(X), model(X)
    assert list(found) == list(want)
    for name in want:
        torch.testing.assert_close(found[name], want[name], rtol=1e-4, atol=1e-5)
