"""The scale of an attention in weights in front of rotations and norms."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from passes import FoldConstants, FuseRmsNorm, SplitAttention
from tests.passes.util import (
    assert_differs_when_perturbed,
    assert_same,
    count,
    run_pass,
    seeded,
)

aten = torch.ops.aten
HEADS, WIDTH, S = 2, 4, 6
C = HEADS * WIDTH


class Rotated(nn.Module):
    """Attention of ``x (B, S, C)`` whose queries and keys ``spelled`` makes."""

    def __init__(self, spelled):
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v = nn.Linear(C, C), nn.Linear(C, C, bias=False), nn.Linear(C, C)
        self.rms, self.bare = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH, elementwise_affine=False)
        self.layer = nn.LayerNorm(WIDTH)
        for norm in (self.rms, self.layer):
            nn.init.normal_(norm.weight)
        self.table = nn.Parameter(torch.randn(S, WIDTH))
        self.spelled = spelled

    def forward(self, x):
        q, k = self.spelled(self, heads(self.q(x)), heads(self.k(x)))
        return F.scaled_dot_product_attention(q, k, heads(self.v(x)))


def heads(x):
    return x.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2)


def halves(x):
    angles = torch.arange(S)[:, None] / 10 ** torch.arange(WIDTH // 2)
    angles = torch.cat([angles, angles], -1)
    one, other = x.chunk(2, -1)
    return x * angles.cos() + torch.cat([-other, one], -1) * angles.sin()


def pairs(x):
    """Neighbours are turned, as in GPT-J."""
    angles = torch.arange(S)[:, None] / 10 ** torch.arange(WIDTH // 2)
    one, other = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([one * cos - other * sin, other * cos + one * sin], -1).flatten(-2)


def a_part(x):
    """The rest of each head stays as it is, as in GPT-NeoX."""
    return torch.cat([halves(torch.cat([x[..., :2], x[..., :2]], -1))[..., :2], x[..., 2:]], -1)


FOLDED = {
    "halves": lambda m, q, k: (halves(q), halves(k)),
    "pairs": lambda m, q, k: (pairs(q), pairs(k)),
    "a part": lambda m, q, k: (a_part(q), a_part(k)),
    "normed": lambda m, q, k: (halves(m.rms(q)), halves(k)),
    "layer norm": lambda m, q, k: (pairs(m.layer(q)), k),
    "keys alone": lambda m, q, k: (q.tanh(), halves(m.rms(k))),
    "a norm without weights": lambda m, q, k: (halves(m.bare(q)), halves(k)),
    "tables": lambda m, q, k: (halves(m.bare(q)), pairs(m.bare(k))),
    "tables of pairs": lambda m, q, k: (pairs(m.bare(q)), m.bare(k)),
    "tables of keys": lambda m, q, k: (m.bare(q), halves(k.tanh())),
    "one table behind another": lambda m, q, k: (halves(halves(q.tanh())), k.tanh()),
    "a norm of both": lambda m, q, k: (lambda n: (halves(n), n.tanh() * k))(m.rms(q)),
    "queries that are kept": lambda m, q, k: (halves(q) * q.mean(), halves(k) * k.mean()),
}
LEFT = {
    "a norm that is kept": lambda m, q, k: (lambda n: (n * n.tanh(), n.tanh() * k.tanh()))(
        m.rms(q)
    ),
    "a table that is added": lambda m, q, k: (q + m.table, k + m.table),
    "a square": lambda m, q, k: (q * q, k * k),
    "a number that is added": lambda m, q, k: (q + 1.5, k - 0.5),
    "no weights": lambda m, q, k: (m.bare(q), m.bare(k)),
}


def scaled(model, x, form):
    _, after, _ = run_pass(model, x, FuseRmsNorm(), SplitAttention(form=form), FoldConstants())
    assert_same(model, after, x, atol=2e-6)
    assert_differs_when_perturbed(after, model, x)
    scale = WIDTH**-0.5
    return sum(n.target is aten.mul.Tensor and scale in n.args for n in after.graph.nodes), after


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize("form", ["split", "batched"])
def test_rotations_carry_the_scale(name, form):
    left, after = scaled(Rotated(FOLDED[name]), seeded(2, S, C), form)
    assert left == 0, after.graph
    assert count(after, aten.linear.default) == 3


@pytest.mark.parametrize("name", LEFT)
def test_what_is_not_proportional_is_scaled_by_itself(name):
    left, after = scaled(Rotated(LEFT[name]), seeded(2, S, C), "batched")
    assert left == 1, after.graph
