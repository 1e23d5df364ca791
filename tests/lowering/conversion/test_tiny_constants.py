"""Constants that keep something from zero, and that float16 has no number for."""

import warnings

import coremltools as ct
import pytest
import torch
from torch import nn

from frontend.capturing import capture
from lowering import convert
from lowering.conversion.tiny_constants import (
    TinyConstantWarning,
    tiny_guard,
    warn_of_tiny_constants,
)

aten = torch.ops.aten
x = torch.ones(2, 8)


class Normal(nn.Module):
    """Divided by its own size."""

    def __init__(self, eps):
        super().__init__()
        self.eps = eps

    def forward(self, x):
        return x / (x.abs().mean(-1, keepdim=True) + self.eps)


@pytest.mark.parametrize(
    ("target", "args", "tiny"),
    [
        (aten.add.Tensor, (x, 1e-12), True),
        (aten.clamp_min.default, (x, 1e-12), True),
        (aten.add.Tensor, (x, 1e-6), False),
        (aten.add.Tensor, (x, 0.0), False),
        (aten.mul.Tensor, (x, 1e-12), False),
        (aten.layer_norm.default, (x, [8], None, None, 1e-12), True),
        (aten.group_norm.default, (x, 2, None, None, 1e-9), True),
        (aten.layer_norm.default, (x, [8]), False),
        (aten.rms_norm.default, (x, [8], None, 1e-12), False),  # its lowering holds
        (getattr, (x, "eps"), False),
    ],
)
def test_guards(target, args, tiny):
    assert bool(tiny_guard(target, args, {})) is tiny


@pytest.mark.parametrize(
    ("model", "line"),
    [
        (nn.LayerNorm(8, eps=1e-12), "F.layer_norm("),
        (nn.GroupNorm(2, 8, eps=1e-10), "F.group_norm("),
        (Normal(1e-9), "x.abs().mean("),
    ],
)
def test_a_warning_names_the_line(model, line):
    with pytest.warns(TinyConstantWarning, match="becomes 6.0e-08") as caught:
        warn_of_tiny_constants(capture(model, (x,)).graph)
    assert line in str(caught[0].message) and len(caught) == 1


@pytest.mark.parametrize("model", [nn.LayerNorm(8), Normal(1e-6), nn.BatchNorm1d(8, eps=1e-12)])
def test_others_are_silent(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error", TinyConstantWarning)
        warn_of_tiny_constants(capture(model.eval(), (x,)).graph)


def test_convert_warns_in_float16_alone():
    model = nn.Sequential(*[nn.LayerNorm(8, eps=1e-12) for _ in range(6)])
    with pytest.warns(TinyConstantWarning, match="and 2 more places"):
        convert(model, (x,), skip_model_load=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TinyConstantWarning)
        convert(model, (x,), compute_precision=ct.precision.FLOAT32, skip_model_load=True)


def test_what_is_an_operators_own_epsilon_needs_no_warning():
    class Logs(nn.Module):
        def forward(self, x):
            return (x.abs() + 1e-10).log(), torch.rsqrt(x.abs() + 1e-8)

    class Both(nn.Module):
        def forward(self, x):
            power = x.abs() + 1e-10
            return power.log(), x / power

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_tiny_constants(capture(Logs(), (x,)).graph)
    with pytest.warns(TinyConstantWarning, match="1e-10"):
        warn_of_tiny_constants(capture(Both(), (x,)).graph)
