"""Integers narrower than int32, promotion, and writes to inputs: as in torch, or said."""

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

from lowering.conversion.converter import WrittenInputWarning, convert
from lowering.reference import predict
from passes import optimize_for_ane

FP32 = {"compute_precision": ct.precision.FLOAT32, "skip_model_load": True}
U8 = torch.tensor([[0, 1, 200, 255], [3, 128, 127, 254]], dtype=torch.uint8)
I8 = torch.tensor([[-128, 127, 5, -5]], dtype=torch.int8)
I16 = torch.tensor([[-32768, 32767, 300, -2]], dtype=torch.int16)
I64 = torch.tensor([[-7, -3, 0, 2], [5, 7, 100, -128]])
F = torch.tensor([[0.5, -1.5, 2.5, -3.25], [1e-3, 7.0, -8.0, 9.0]])
F64, BOOL = F.double(), F > 0


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, y=None):
        return self.function(x) if y is None else self.function(x, y)


def arrays(*tensors):
    dtypes = [np.float32 if t.is_floating_point() else np.int32 for t in tensors]
    return {n: t.numpy().astype(d) for n, t, d in zip("xy", tensors, dtypes, strict=False)}


def computed(function, *inputs):
    program = optimize_for_ane(Calls(function), inputs)
    return torch.as_tensor(next(iter(predict(convert(program, **FP32), arrays(*inputs)).values())))


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        # Narrow integers wrap around.
        (lambda x: x + x, (U8,)),
        (lambda x: x - 10, (U8,)),
        (lambda x: -x, (U8,)),
        (lambda x: ~x, (U8,)),
        (lambda x: x << 1, (U8,)),
        (lambda x: x + x, (I8,)),
        (lambda x: x.abs(), (I8,)),
        (lambda x: x * 2, (I16,)),
        (lambda x: x.to(torch.int8), (I16,)),
        (lambda x: (x * 100).to(torch.uint8), (F.abs(),)),
        (lambda x: x.to(torch.int16) * 2, (U8,)),
        (lambda x: x.float() / 255, (U8,)),
        # Promotion: of two dtypes, of numbers, of tensors without axes.
        (lambda x, y: x[:1] + y, (U8, I8)),
        (lambda x, y: x * y, (I64, F)),
        (lambda x: x + 1.5, (I64,)),
        (lambda x: x * torch.tensor(2), (F,)),
        (lambda x: x + torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64), (F,)),
        (lambda x, y: x + y, (F64, F)),
        (lambda x, y: torch.cat([x, y]), (I64, F)),
        (lambda x, y: torch.where(x, y, 0), (BOOL, F)),
        # Division and remainder of negative integers.
        (lambda x: x // 2, (I64,)),
        (lambda x: x // -3, (I64,)),
        (lambda x: torch.div(x, 2, rounding_mode="trunc"), (I64,)),
        (lambda x: x % -3, (I64,)),
        # Booleans as numbers.
        (lambda x: x + x, (BOOL,)),
        (lambda x: x.sum(1), (BOOL,)),
        (lambda x: x + 0.5, (BOOL,)),
        (lambda x: x.cumsum(1), (BOOL,)),
    ],
)
def test_as_in_torch(function, inputs):
    wanted = function(*inputs)
    found = computed(function, *inputs)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found.double(), wanted.double(), rtol=1e-5, atol=1e-6)


def test_a_sentinel_beyond_int32_still_is_the_largest():
    largest = torch.iinfo(torch.int64).max

    def function(x):
        return torch.where(x > 2, x, largest).min(-1)[0].clamp(max=1000)

    np.testing.assert_array_equal(computed(function, I64), function(I64))


def test_writes_to_inputs_are_kept_inside_and_said():
    def function(x):
        x.add_(1)
        return x * 2

    inputs = F.clone()
    program = optimize_for_ane(Calls(function), (inputs,))
    with pytest.warns(WrittenInputWarning, match="'x' in place"):
        mlmodel = convert(program, **FP32)
    assert [entry.name for entry in mlmodel.get_spec().description.output] == ["output"]
    found = predict(mlmodel, arrays(F))["output"]
    np.testing.assert_allclose(found, (F + 1) * 2, rtol=1e-6)
    np.testing.assert_array_equal(inputs, F)
