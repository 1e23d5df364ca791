"""Wide linear layers in tiles."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from passes.errors import PassError
from passes.tile_linear import TileLinear
from tests.passes.util import assert_differs_when_perturbed, assert_same, count, run_pass, seeded

aten = torch.ops.aten


@pytest.mark.parametrize(
    ("outputs", "most", "tiles"), [(40, 16, 3), (32, 16, 2), (33, 16, 3), (17, 5, 4)]
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_wide_head_is_taken_apart(outputs: int, most: int, tiles: int, bias: bool):
    torch.manual_seed(0)
    model, x = nn.Linear(8, outputs, bias=bias).eval(), seeded(1, 3, 8)
    _, after, (report,) = run_pass(model, (x,), TileLinear(most))
    linears = [n for n in after.graph.nodes if n.target is aten.linear.default]
    widths = [n.meta["val"].shape[-1] for n in linears]
    assert len(widths) == tiles and max(widths) <= most and max(widths) - min(widths) <= 1
    assert report.rewrites == 1
    assert_same(model, after, (x,))
    assert_differs_when_perturbed(after, model, (x,))


def test_others_stay():
    model, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval(), seeded(2, 8)
    _, after, (report,) = run_pass(model, (x,), TileLinear(16))
    assert count(after, aten.linear.default) == 2 and report.rewrites == 0


def test_a_computed_weight_is_declined():
    class Computed(nn.Module):
        def forward(self, x):
            return nn.functional.linear(x, x @ x.T)

    _, _, (report,) = run_pass(Computed(), (seeded(6, 6),), TileLinear(4))
    assert report.rewrites == 0 and report.declined[0].reason == "its weight is computed"


def test_tiles_of_nothing_are_refused():
    with pytest.raises(PassError, match="at least one output"):
        TileLinear(0)
