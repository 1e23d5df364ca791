"""An optimized model fits into a pipeline that ends in the user's own ct.convert."""

import coremltools as ct
import pytest
import torch
from torch import nn

import passes
from lowering.support.quiet import quiet_coremltools


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.rms = nn.RMSNorm(16)
        self.linear = nn.Linear(16, 16)

    def forward(self, x):
        return self.rms(x + self.linear(self.norm(x)))


@pytest.mark.parametrize("route", ["trace", "export"])
def test_stock_coremltools_converts_an_optimized_model(route):
    x = torch.randn(1, 8, 16)
    optimized = passes.optimize_for_ane(Block().eval(), x)
    with quiet_coremltools():
        if route == "trace":
            traced = torch.jit.trace(optimized, x)
            inputs = [ct.TensorType(name="x", shape=x.shape)]
            model = ct.convert(traced, inputs=inputs, minimum_deployment_target=ct.target.iOS17)
        else:
            exported = torch.export.export(optimized, (x,)).run_decompositions({})
            model = ct.convert(exported, minimum_deployment_target=ct.target.iOS17)
    kinds = {op.op_type for op in model._mil_program.functions["main"].operations}
    assert "conv" in kinds and "linear" not in kinds


def test_no_operator_of_ours_is_left_in_a_trace():
    x = torch.randn(1, 8, 16)
    traced = torch.jit.trace(passes.optimize_for_ane(Block().eval(), x), x)
    assert "ane::" not in str(traced.inlined_graph)
