"""What makes the error of torch in half precision a loose measure is said."""

import json

import pytest
import torch
from torch import nn

import passes
from lowering import convert, verify
from lowering.verification import Original, Thresholds
from lowering.verification.yardstick import loosenings


class Large(nn.Module):
    """Finite in float32; torch's half precision loses it at the named place."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.linear = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        nn.init.normal_(self.linear.weight)
        if kind == "variance":
            self.norm.running_var.fill_(5e5)
        if kind == "weight":
            self.linear.weight.data[0, 0] = 1e6

    def forward(self, x):
        if self.kind == "product":
            return torch.tanh((x * 1e3) * (x * 1e3 + 100) * 1e-5)
        if self.kind == "sum":
            return ((x * 300) ** 2).sum(-1, keepdim=True).sqrt() * x
        if self.kind == "variance":
            return self.norm(self.linear(x) * 500)
        return torch.tanh(self.linear(x) * 1e-5)


class Masked(nn.Module):
    def forward(self, x, keep):
        scores = x.masked_fill(~keep, torch.finfo(x.dtype).min)
        return scores.softmax(-1)


def held(model, inputs, **options):
    package = convert(passes.optimize_for_ane(model, inputs), skip_model_load=True)
    return verify(package, model, inputs, **options)


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("variance", "running_var"),
        ("weight", "linear_weight"),
        ("product", "aten.mul.Tensor"),
        ("sum", "aten.pow.Tensor_Scalar"),
    ],
)
def test_an_overflow_in_half_torch_is_no_yardstick(kind, place):
    torch.manual_seed(0)
    model, inputs = Large(kind).eval(), (torch.randn(4, 8) + 2,)
    places = loosenings(Original.of(model, inputs), 1e-2)
    assert any(
        item.cause == "overflow" and place in f"{item.target} {item.node}" for item in places
    ), places
    found = held(model, inputs, locate=False)
    (output,) = found.outputs
    assert output.threshold <= Thresholds.fp16_alone
    if kind == "weight":  # tanh hides it: the yardstick is as good as ever
        assert not output.loose
        return
    assert output.loose
    assert found.loosened
    shown = json.loads(json.dumps(found.to_json()))
    assert shown["outputs"][0]["loose"] == output.loose
    assert shown["loosened"][0]["cause"] in ("overflow", "error")
    assert any("overflows" in line for line in found._sentences())


class Cancels(nn.Module):
    def forward(self, x):
        return (x + 1000.0) - 1000.0


def test_a_yardstick_that_cancels_reaches_the_ceiling_and_is_reported():
    torch.manual_seed(0)
    inputs = (torch.randn(4, 8) * 0.1,)
    found = held(Cancels(), inputs, locate=False)
    (output,) = found.outputs
    assert output.threshold == Thresholds.fp16_ceiling
    assert "itself is off" in output.loose
    assert [item.cause for item in found.loosened] == ["error"]
    assert found.loosened[0].target in ("aten.add.Tensor", "aten.sub.Tensor")


def test_what_torch_cannot_run_in_half_precision_is_said():
    class Fixed(nn.Module):
        def forward(self, x):
            return torch.matmul(x, torch.eye(4, dtype=torch.float32))

    class Filled(nn.Module):
        def forward(self, x):
            return x.masked_fill(x < 0, torch.finfo(torch.float32).min).softmax(-1)

    for model in (Fixed(), Filled()):
        found = held(model, (torch.randn(2, 4),))
        (output,) = found.outputs
        assert output.yardstick is None
        assert output.threshold == Thresholds.fp16_alone
        assert "cannot run" in output.loose
        assert found.loosened[0].cause == "not run"
        assert found.to_json()["loosened"][0]["reason"].startswith("torch cannot run it")


@pytest.mark.parametrize("model", ["mask", "plain"])
def test_sound_yardsticks_say_nothing(model):
    torch.manual_seed(0)
    if model == "mask":
        keep = torch.ones(4, 8, dtype=torch.bool)
        keep[:, 5:] = False
        found = held(Masked(), (torch.randn(4, 8), keep))
    else:
        found = held(nn.Sequential(nn.Linear(8, 8), nn.GELU()).eval(), (torch.randn(4, 8),))
    assert found, found
    assert not found.loosened
    assert not any(item.loose for item in found.outputs)
