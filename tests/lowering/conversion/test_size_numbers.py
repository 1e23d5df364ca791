"""Arithmetic on dynamic sizes, rolls by them and padding by them: at every kind of size."""

import coremltools as ct
import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

from lowering import convert, load, save
from passes import optimize_for_ane

SIZES = (9, 4, 5, 13, 31, 32)


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def whole_numbers(x):
    n = x.shape[1]
    return (
        x + n % 4,
        x * max(n, 10) - min(n, 10),
        x + (n & 7) + (n >> 1) + (n << 2) + n**2 - (-n),
        x * (n // 3 - (n + 5) // 7),
    )


def fractions(x):
    n = torch.sym_float(x.shape[1])
    return x / n, x * torch.sym_sqrt(n), x * (n**0.5 - 1), x + (x.shape[1] + 1) / 4


def parts(x):
    n = x.shape[1]
    first, last = x[:, : n // 2], x[:, n // 2 :]
    return torch.cat([last, first], 1), x[:, n // 3 : 2 * n // 3].mean(1), x.narrow(1, n - 3, 2)


def rolls(x):
    n = x.shape[1]
    return (
        torch.roll(x, -2, 1),
        torch.roll(x, n // 2, 1),
        torch.roll(x, (1, 3), (1, 2)),
        torch.roll(x, n + 1, 1),
        x.roll(5),
    )


def padding(x):
    n = x.shape[1]
    return (
        F.pad(x, (0, 0, 0, 40 - n)),
        F.pad(x, (0, 0, 0, (-n) % 4)).unflatten(1, (-1, 4)).mean(-2),
        F.pad(x, (1, 2, 32 - n, 0), value=-1.0),
        F.pad(x, (0, 0, 32 - n, n // 2), value=0.5),
    )


@pytest.mark.parametrize("function", [whole_numbers, fractions, parts, rolls, padding])
def test_every_size(function, tmp_path):
    model, shapes = Calls(function), {"x": {1: Dim("n", min=4, max=32)}}
    optimized = optimize_for_ane(model, (torch.randn(1, 9, 6),), dynamic_shapes=shapes)
    made = convert(optimized, compute_precision=ct.precision.FLOAT32, skip_model_load=True)
    package = load(save(made, tmp_path / "model.mlpackage"))
    for n in SIZES:
        x = torch.randn(1, n, 6)
        found, want = package({"x": x.numpy()}), model(x)
        assert len(found) == len(want)
        for value, expected in zip(found.values(), want, strict=True):
            torch.testing.assert_close(torch.from_numpy(value), expected, rtol=1e-4, atol=1e-5)
