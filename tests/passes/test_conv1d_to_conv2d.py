"""1-D convolutions become 2-D ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from passes.conv1d_to_conv2d import Conv1dToConv2d
from passes.fold_constants import FoldConstants
from tests.passes.util import (
    Function,
    assert_differs_when_perturbed,
    assert_same,
    count,
    run_pass,
    seeded,
)

aten = torch.ops.aten
CONV = aten.convolution.default
X = seeded(2, 8, 20)

LAYERS = {
    "plain": lambda: nn.Conv1d(8, 6, 3),
    "strided": lambda: nn.Conv1d(8, 6, 5, stride=2, padding=3, dilation=2),
    "same": lambda: nn.Conv1d(8, 6, 4, padding="same"),
    "circular": lambda: nn.Conv1d(8, 6, 3, padding=1, padding_mode="circular"),
    "depthwise": lambda: nn.Conv1d(8, 8, 3, groups=8, bias=False),
    "grouped": lambda: nn.Conv1d(8, 4, 1, groups=2),
    "transposed": lambda: nn.ConvTranspose1d(8, 6, 3, stride=2, padding=1, output_padding=1),
    "transposed_grouped": lambda: nn.ConvTranspose1d(8, 6, 3, groups=2, dilation=2),
    "weight_norm": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv1d(8, 6, 3), dim=2)
    ),
}


def ranks(program):
    return [len(n.args[1].meta["val"].shape) for n in program.graph.nodes if n.target is CONV]


@pytest.mark.parametrize("name", LAYERS)
def test_becomes_2d(name):
    torch.manual_seed(0)
    model = LAYERS[name]()
    before, after, (report, _) = run_pass(model, X, Conv1dToConv2d(), FoldConstants())
    assert (ranks(before), ranks(after)) == ([3], [4])
    assert report.rewrites == 1 and not report.declined
    assert_same(model, after, X)
    assert_differs_when_perturbed(after, model, X)


def test_kernel_is_a_view_of_the_stored_weight():
    model = nn.Conv1d(8, 6, 3)
    _, after, _ = run_pass(model, X, Conv1dToConv2d(), FoldConstants())
    stored = {t.untyped_storage().data_ptr() for t in after.state_dict.values()}
    assert stored == {p.untyped_storage().data_ptr() for p in model.parameters()}


def test_unbatched_input():
    model = nn.Conv1d(8, 6, 3)
    _, after, _ = run_pass(model, X[0], Conv1dToConv2d())
    assert ranks(after) == [4]
    assert_same(model, after, X[0])


def test_2d_stays_and_3d_is_declined():
    model = nn.Conv2d(8, 6, 3)
    _, _, (report,) = run_pass(model, seeded(1, 8, 5, 5), Conv1dToConv2d())
    assert (report.rewrites, report.declined) == (0, ())
    model, x = nn.Conv3d(8, 6, 3), seeded(1, 8, 5, 5, 5)
    _, after, (report,) = run_pass(model, x, Conv1dToConv2d())
    assert "3-D convolution" in report.declined[0].reason
    assert_same(model, after, x)


def test_computed_kernel():
    model = Function(lambda m, x: F.conv1d(x, x[:, :, :3]))
    _, after, _ = run_pass(model, X, Conv1dToConv2d())
    assert ranks(after) == [4]
    assert_same(model, after, X)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: F.max_pool1d(x, 3, 2, 1),
        lambda m, x: F.avg_pool1d(x, 3, 2, 1, count_include_pad=False),
    ],
)
def test_pools_are_2d_after_capture(function):
    """Nothing is left to do for them."""
    before, after, (report,) = run_pass(Function(function), X, Conv1dToConv2d())
    assert count(before, aten.max_pool2d_with_indices.default, aten.avg_pool2d.default) == 1
    assert report.rewrites == 0
    assert_same(Function(function), after, X)


def test_dynamic_length():
    model = nn.Conv1d(8, 6, 3, stride=2, padding=1)
    dims = ({2: torch.export.Dim("length", min=8, max=64)},)
    _, after, _ = run_pass(model, (X,), Conv1dToConv2d(), dynamic_shapes=dims)
    assert ranks(after) == [4]
    assert_same(model, after, seeded(2, 8, 33))
