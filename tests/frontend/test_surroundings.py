"""Modes of the caller and of the model do not change what is captured."""

import sys
from typing import cast

import pytest
import torch
from torch import nn

from frontend.capturing import capture
from frontend.errors import CaptureError
from frontend.program import runnable
from passes import optimize_for_ane

X = torch.randn(2, 4)


class Region(nn.Module):
    """A part of forward inside of a mode; ``last`` puts it at the end."""

    def __init__(self, mode, last):
        super().__init__()
        self.a, self.b, self.mode, self.last = nn.Linear(4, 4), nn.Linear(4, 4), mode, last

    def forward(self, x):
        x = x if not self.last else self.b(x)
        with self.mode():
            x = self.a(x).tanh()
            if self.last:
                return x
        return self.b(x)


MODES = {
    "enable_grad": torch.enable_grad,
    "no_grad": torch.no_grad,
    "set_grad_enabled": lambda: torch.set_grad_enabled(True),
    "inference_mode": torch.inference_mode,
    "autocast off": lambda: torch.autocast("cpu", enabled=False),
}


def matches(model, x=X):
    program = capture(model, (x,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x)[0], model(x))
    return program


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_regions_inside_forward(mode, last):
    program = matches(Region(MODES[mode], last))
    assert all(isinstance(n.target, torch._ops.OpOverload | str) for n in program.graph.nodes)


def test_gradients_switched_without_a_region():
    class Model(nn.Module):
        def forward(self, x):
            torch.set_grad_enabled(True)
            with torch.no_grad():
                x = x * 2
            return x + torch.is_grad_enabled()

    torch.testing.assert_close(capture(Model(), (X,)).module()(X)[0], X * 2 + 1)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("differentiate", [
    lambda y, x: torch.autograd.grad(y, x)[0],
    lambda y, x: y.backward() or x.grad,
    lambda y, x: torch.func.grad(lambda z: (z * z).sum())(x),
])  # fmt: skip
def test_gradients_in_forward_are_refused(differentiate):
    class Model(nn.Module):
        def forward(self, x):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                return differentiate((x * x).sum(), x)

    with pytest.raises(CaptureError, match=r"computes gradients in forward") as raised:
        capture(Model(), (X,))
    assert "test_surroundings.py" in str(raised.value)


@pytest.mark.parametrize("around", [
    torch.inference_mode,
    torch.enable_grad,
    lambda: torch.autocast("cpu", dtype=torch.bfloat16),
])  # fmt: skip
def test_modes_around_the_call(around):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    with around():
        optimized = optimize_for_ane(model, (X,))
    with torch.no_grad():
        torch.testing.assert_close(optimized(X), model(X), rtol=1e-4, atol=1e-5)


def test_weights_inputs_and_buffers_of_inference_mode():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.shift = nn.Linear(4, 4), torch.ones(4)
            self.register_buffer("total", torch.zeros(2, 4))

        def forward(self, x):
            self.total.add_(self.linear(x))
            return self.total + self.shift

    with torch.inference_mode():
        model, x = Model(), torch.randn(2, 4)
    weight = model.linear.weight
    program = capture(model, (x,))
    assert model.linear.weight is weight and weight.is_inference()
    assert program.state_dict["linear.weight"].data_ptr() == weight.data_ptr()
    with torch.inference_mode():
        torch.testing.assert_close(runnable(program)(x.clone())[0], model(x))


def compiled_function():
    function = torch.compile(lambda x: x.tanh())
    return type("Model", (nn.Module,), {"forward": lambda self, x: function(x)})()


def compiled_forward():
    model = nn.Linear(4, 4)
    model.forward = torch.compile(model.forward)
    return model


def compiled_in_place():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].compile()
    model.compile()
    return model


COMPILED = {
    "module": lambda: torch.compile(nn.Linear(4, 4)),
    "part": lambda: nn.Sequential(cast(nn.Module, torch.compile(nn.Linear(4, 4))), nn.ReLU()),
    "in place": compiled_in_place,
    "function": compiled_function,
    "forward": compiled_forward,
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_models_are_captured_as_they_were_written(name, monkeypatch):
    def compiles(*args, **kwargs):
        raise AssertionError("the compiler runs")

    model = COMPILED[name]()
    monkeypatch.setattr(torch._dynamo.convert_frame.ConvertFrame, "__call__", compiles)
    with torch.compiler.set_stance("force_eager"):
        want = model(X)
    torch.testing.assert_close(capture(model, (X,)).module()(X)[0], want)


def nested(depth):
    model = nn.Linear(4, 4)
    for _ in range(depth):
        model = nn.Sequential(model)
    return model


@pytest.mark.parametrize(
    "model", [nested(40), nested(180), nn.Sequential(*[nn.Hardtanh(-2, 2) for _ in range(300)])]
)
def test_deep_models(model):
    limit = sys.getrecursionlimit()
    matches(model, X.clone())
    assert sys.getrecursionlimit() == limit


def test_graph_modules():
    model = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    assert list(matches(model).state_dict) == ["0.weight", "0.bias"]
    exported = torch.export.export(nn.Linear(4, 4), (X,)).module()
    assert list(matches(exported).state_dict) == ["weight", "bias"]
