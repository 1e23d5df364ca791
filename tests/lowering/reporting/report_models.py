"""A small model for reports: equal blocks, and a part that the ANE does not take."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """Attention with four heads and a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        b, s, c = x.shape
        q, k, v = (p(self.norm(x)).view(b, s, 4, c // 4).transpose(1, 2) for p in self.qkv)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, s, c)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(x)))


class Encoder(nn.Module):
    """Embedding and three blocks.

    The table has more rows than the 16-bit indices that the ANE takes can count.
    """

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.embed = nn.Embedding(2**16 + 1, 16)
        self.widen = nn.Linear(16, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(3))

    def forward(self, ids):
        x = self.widen(self.embed(ids))
        for layer in self.layers:
            x = layer(x)
        return x


def encoder():
    """The model and its inputs: token numbers, (1, 128) int64."""
    torch.manual_seed(0)
    return Encoder().eval(), (torch.randint(0, 100, (1, 128)),)
