"""Written buffers of every kind are states that start where the buffers start."""

import copy
import warnings

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

import passes
from lowering import convert
from lowering.conversion.stored_states import StateStartWarning
from lowering.errors import LoweringError
from lowering.reference import load

INF = float("inf")
IOS18 = {"minimum_deployment_target": ct.target.iOS18, "skip_model_load": True}


class Stateful(nn.Module):
    def __init__(self, step, **buffers):
        super().__init__()
        self.step = step
        for name, start in buffers.items():
            self.register_buffer(name, start)

    def forward(self, x):
        return self.step(self, x)


def average(self, x):
    self.mean.mul_(0.5).add_(x, alpha=0.5)
    self.var.mul_(0.5).add_((x - self.mean) ** 2)
    return (x - self.mean) / self.var


def maximum(self, x):
    self.top.copy_(torch.maximum(self.top, x))
    return self.top - x


def positions(self, x):
    self.at.add_(1)
    self.ring[:, self.at % 3] = x[:, 0]
    return self.ring, self.at


def big_counter(self, x):
    self.count.add_(123_457).mul_(-3)
    return self.count, self.count + x.sum().to(torch.int64)


def seen(self, x):
    before = self.flags.clone()
    self.flags.logical_or_(x > 0.5)
    return before, self.flags, self.low.add_(x.gt(0).to(torch.uint8))


def scalar(self, x):
    self.total.add_(x.sum())
    return x * self.total


def sinks(self, x):
    keys = torch.cat([self.cache[:, 1:], x[:, None]], 1)
    keys[:, 0] = self.cache[:, 0]
    self.cache.copy_(keys)
    return (keys * x[:, None]).sum(-1).softmax(-1)


def with_nan(self, x):
    known = torch.where(self.last.isnan(), x, self.last)
    self.last.copy_(x)
    return known * 2


def matrix(self, x):
    self.ids.copy_(torch.roll(self.ids, 1, 1))
    self.ids[:, 0] = (x[:, 0] * 1000).to(torch.int64)
    return self.ids


CASES = {
    "average": (average, {"mean": torch.full((2, 3), 4.0), "var": torch.ones(2, 3)}),
    "maximum": (maximum, {"top": torch.full((2, 3), -INF)}),
    "positions": (positions, {"at": torch.tensor(-1), "ring": torch.zeros(2, 3)}),
    "counter": (big_counter, {"count": torch.tensor([7, -1, 2_000_000])}),
    "int32": (big_counter, {"count": torch.tensor([0, 2], dtype=torch.int32)}),
    "flags": (
        seen,
        {
            "flags": torch.tensor([[True, False, False]] * 2),
            "low": torch.full((2, 3), 250, dtype=torch.uint8),
        },
    ),
    "scalar": (scalar, {"total": torch.tensor(3.0)}),
    "scalar from zero": (scalar, {"total": torch.tensor(0.0)}),
    "sinks": (sinks, {"cache": torch.randn(2, 4, 3).half().float()}),
    "nan": (with_nan, {"last": torch.full((2, 3), float("nan"))}),
    "ids": (matrix, {"ids": torch.full((2, 4), -100_000)}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("precision", [ct.precision.FLOAT16, ct.precision.FLOAT32])
def test_a_package_starts_where_the_model_does(name, precision):
    step, buffers = CASES[name]
    torch.manual_seed(0)
    model = Stateful(step, **copy.deepcopy(buffers)).eval()
    inputs = [(torch.rand(2, 3) * 8).round() / 8 for _ in range(5)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StateStartWarning)
        package = load(
            convert(
                passes.optimize_for_ane(model, (inputs[0],)), compute_precision=precision, **IOS18
            )
        )
    state = package.make_state()
    for x in inputs:
        wanted = model(x)
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        found = package({"x": x.numpy()}, state).values()
        for value, want in zip(found, wanted, strict=True):
            exact = not want.is_floating_point()
            np.testing.assert_allclose(
                value.reshape(want.shape),
                want.numpy(),
                atol=0 if exact else 2e-2,
                rtol=0 if exact else 5e-3,
            )


def test_it_is_said():
    step, buffers = CASES["average"]
    with pytest.warns(StateStartWarning, match="'mean', 'var' do not start at zero"):
        package = convert(Stateful(step, **buffers), (torch.rand(2, 3),), **IOS18)
    assert {state.name for state in package.get_spec().description.state} == {
        "mean",
        "var",
        "called_before",
    }
    assert '"flag": "called_before"' in package.user_defined_metadata["com.ane-passes.states"]


def test_states_that_start_at_zero_are_the_buffers():
    step, _ = CASES["average"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", StateStartWarning)
        package = convert(
            Stateful(step, mean=torch.zeros(2, 3), var=torch.zeros(2, 3)),
            (torch.rand(2, 3),),
            **IOS18,
        )
    states = package.get_spec().description.state
    assert [state.name for state in states] == ["mean", "var"]
    ops = [op.op_type for op in package._mil_program.functions["main"].operations]
    assert "select" not in ops


@pytest.mark.parametrize(
    ("step", "buffers", "found"),
    [
        (maximum, {"top": torch.full((2, 3), torch.finfo(torch.float32).min)}, "-3.40282e"),
        (average, {"mean": torch.full((2, 3), 1e5), "var": torch.ones(2, 3)}, "100000"),
        (big_counter, {"count": torch.tensor([1 << 40])}, "1.09951e"),
    ],
)
def test_a_start_that_no_state_keeps_is_refused(step, buffers, found):
    with pytest.raises(LoweringError, match="starts at a value that its state cannot") as caught:
        convert(Stateful(step, **buffers), (torch.rand(2, 3),), **IOS18)
    assert f"found: {found}" in str(caught.value)


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("b", torch.zeros(2, 3))
        self.register_buffer("extra", torch.full((2, 3), 2.0), persistent=False)

    def forward(self, x):
        self.b.add_(x)
        self.extra.mul_(x)
        return self.b + self.extra


class SameNames(nn.Module):
    """A state named as another one, as an input, and as an output."""

    def __init__(self):
        super().__init__()
        self.a = Inner()
        self.register_buffer("a_b", torch.ones(2, 3))
        self.register_buffer("x", torch.zeros(2, 3))
        self.register_buffer("y", torch.zeros(2, 3))

    def forward(self, x):
        self.a_b.sub_(x)
        self.x.add_(1)
        self.y.add_(self.x)
        return {"y": self.a(x), "z": self.a_b * self.y}


@pytest.mark.filterwarnings("ignore::lowering.conversion.stored_states.StateStartWarning")
def test_names_that_collide():
    model, x = SameNames().eval(), torch.rand(2, 3)
    package = load(convert(passes.optimize_for_ane(model, (x,)), **IOS18))
    assert list(package.outputs) == ["y", "z"]
    state = package.make_state()
    assert len(list(state)) == 6
    for _ in range(3):
        wanted = model(x)
        for name, value in package({"x": x.numpy()}, state).items():
            np.testing.assert_allclose(value, wanted[name].numpy(), rtol=5e-3, atol=5e-3)


def test_integers_as_the_caller_gives_them():
    step, buffers = CASES["positions"]
    given = [ct.StateType(ct.TensorType(shape=(1,), dtype=np.float16), name="at")]
    with pytest.warns(StateStartWarning):
        package = convert(Stateful(step, **buffers), (torch.rand(2, 3),), states=given, **IOS18)
    shapes = {
        state.name: tuple(state.type.stateType.arrayType.shape)
        for state in package.get_spec().description.state
    }
    assert shapes == {"at": (1,), "ring": (2, 3), "called_before": (1,)}
    other = [ct.StateType(ct.TensorType(shape=(1,), dtype=np.float16), name="no")]
    with pytest.raises(LoweringError, match="'no', which the model does not write"):
        convert(Stateful(step, **buffers), (torch.rand(2, 3),), states=other, **IOS18)
