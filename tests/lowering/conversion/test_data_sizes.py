"""Results whose size depends on values: they run where MIL can, and are refused elsewhere."""

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

from frontend.errors import DataDependentError
from lowering.conversion.converter import convert
from lowering.errors import LoweringError
from lowering.reference import load
from passes import optimize_for_ane

FP32 = {"compute_precision": ct.precision.FLOAT32, "skip_model_load": True}
X = torch.tensor([[1.0, -2.0, 3.0], [0.0, 5.0, -6.0]])
OTHER = torch.tensor([[1.0, 2.0, -3.0], [7.0, 3.0, 1.0]])
COUNTS, MORE = torch.tensor([2, 0, 1]), torch.tensor([1, 3, 1])


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.linear = function, nn.Linear(3, 2)

    def forward(self, x):
        return self.function(self, x)


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (lambda m, x: x[x > 0].sum(), (X, OTHER)),
        (lambda m, x: x[x > 0], (X, OTHER)),
        (lambda m, x: x[x[:, 0] > 0], (X, OTHER)),
        (lambda m, x: x.nonzero(), (X, OTHER)),
        (lambda m, x: x.nonzero().shape[0] * torch.ones(2), (X, OTHER)),
        (lambda m, x: x.masked_select(x > 0).mean(), (X, OTHER)),
        (lambda m, x: x.masked_select(x[0] > 0), (X, OTHER)),
        (lambda m, x: x.unique(), (X, OTHER)),
        (lambda m, x: torch.arange(3).repeat_interleave(x), (COUNTS, MORE)),
        (lambda m, x: m.linear(x[x[:, 0] > 0]).relu(), (X, OTHER)),
    ],
)
def test_sizes_from_values(function, inputs):
    model = Calls(function).eval()
    package = load(convert(optimize_for_ane(model, inputs[:1]), **FP32))
    for given in inputs:
        array = given.numpy().astype(np.float32 if given.is_floating_point() else np.int32)
        (found,) = package({"x": array}).values()
        wanted = model(given).detach()
        assert found.shape == (tuple(wanted.shape) or (1,))
        np.testing.assert_allclose(found.reshape(wanted.shape), wanted, rtol=1e-5)


def test_passes_leave_such_places_alone_and_rewrite_the_others():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            h = self.first(x)
            return self.second(h[h[:, 0] > -100])

    model = Both().eval()
    optimized = optimize_for_ane(model, (X,))
    report = next(r for r in optimized.reports if r.name == "linear_to_conv1x1")
    assert report.rewrites == 1
    assert "known only when the model runs" in report.declined[0].reason
    torch.testing.assert_close(optimized(OTHER), model(OTHER))


def test_decisions_on_such_sizes_are_refused():
    def function(m, x):
        kept = x[x > 0]
        return kept.sum() if kept.shape[0] > 2 else x.sum()

    with pytest.raises(DataDependentError) as caught:
        optimize_for_ane(Calls(function), (X,))
    assert "test_data_sizes.py" in caught.value.details["source"]


def test_what_unique_cannot_return_is_said():
    with pytest.raises(LoweringError, match="return_inverse"):
        convert(optimize_for_ane(Calls(lambda m, x: x.unique(return_inverse=True)[1]), (X,)))
