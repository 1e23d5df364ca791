"""A scale and a shift that coremltools makes a ``batch_norm`` keep their values."""

import coremltools as ct
import torch
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

from lowering import convert, predict


class ScaleAndShift(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.linspace(1, 5, 3).view(1, 3, 1, 1))
        self.shift = torch.nn.Parameter(-1000 * self.scale.detach() + 0.001)

    def forward(self, x):
        return x * self.scale + self.shift


def test_what_nearly_cancels_is_right():
    model, x = ScaleAndShift().eval(), torch.full((1, 3, 4, 5), 1000.5)
    mlmodel = convert(model, [x], compute_precision=ct.precision.FLOAT32, skip_model_load=True)
    kinds = [op.op_type for op in mlmodel._mil_program.functions["main"].operations]
    assert "batch_norm" in kinds and "mul" not in kinds
    (found,) = predict(mlmodel, {"x": x.numpy()}).values()
    expected = model(x).detach()
    # With an epsilon of 1e-5 the scaled value, 1000, is off by 5e-3.
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-3)


def test_coremltools_own_pass_is_back_afterwards():
    name = "common::fuse_elementwise_to_batchnorm"
    before = PASS_REGISTRY.passes[name]
    convert(ScaleAndShift().eval(), [torch.ones(1, 3, 2, 2)], skip_model_load=True)
    assert PASS_REGISTRY.passes[name] is before
