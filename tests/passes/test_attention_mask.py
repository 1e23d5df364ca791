"""Constant masks far from zero are moved, so that half precision keeps their differences."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lowering import convert, predict
from passes.fold_constants import FoldConstants
from passes.split_attention import SplitAttention
from tests.passes.util import assert_same, run_pass, seeded

S = 64
LOWER = torch.ones(S, S, dtype=torch.bool).tril()


class Alibi(nn.Module):
    """Key j is ``slope * (j - last)`` away, counted from the last key, as MPT does."""

    def __init__(self, shift, steepest=0.5):
        super().__init__()
        distance = torch.arange(1.0 - S, 1.0) + shift
        slopes = torch.tensor([steepest, steepest / 2])[:, None, None]
        self.register_buffer("mask", (slopes * distance).masked_fill(~LOWER, -torch.inf)[None])

    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, self.mask)


def largest(program):
    masks = [t for t in program.state_dict.values() if t.shape[-1] == S]
    return [float(mask.amax(-1).abs().max()) for mask in masks]


@pytest.mark.parametrize("shift", [0.0, -400.0])
def test_differences_survive_half_precision(shift):
    q, k, v = (seeded(1, 2, S, 8, seed=i) for i in range(3))
    model = Alibi(shift)
    _, after, _ = run_pass(model, (q, k, v), SplitAttention(), FoldConstants())
    assert max(largest(after)) == 0.0
    assert_same(model, after, (q, k, v), rtol=1e-4, atol=1e-5)
    (found,) = predict(convert(after), {"q": q, "k": k, "v": v}).values()
    wanted = model(q, k, v)
    assert float((torch.from_numpy(found).float() - wanted).norm() / wanted.norm()) < 2e-3


def test_masks_near_zero_stay():
    q = seeded(1, 2, S, 8)
    _, after, _ = run_pass(Alibi(0.0, 0.1), (q, q, q), SplitAttention(), FoldConstants())
    assert max(largest(after)) > 1.0
