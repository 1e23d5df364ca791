"""Small models, each with obstacles on lines of their own."""

import torch
from torch import nn


class Obstacles(nn.Module):
    """Cannot be captured (``int``), and has much else besides."""

    def __init__(self):
        super().__init__()
        self.linear, self.dropout = nn.Linear(4, 4), nn.Dropout(0.1)

    def forward(self, x, ids):
        h = self.dropout(self.linear(x))
        if h.sum() > 0:
            h = h * 2
        count = int(ids.max())
        q = torch.linalg.qr(h)[0]
        kept = h[h > 0]
        hashed = (ids * 2654435761) % 7
        noise = torch.randn_like(h)
        large = (h * 0 + 12).exp() * 1000
        safe = large / (h.norm() + 1e-12)
        wide = h.double().sum()
        ranks = h.view(2, 2, 1, 1, 2, 1)
        x.add_(1)
        return q, kept.sum(), hashed, noise, safe, wide, ranks, count


class Convertible(nn.Module):
    """Can be captured; what remains is in the program."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("table", torch.tensor([2**40, 1, 2, 3]))
        self.register_buffer("mask", torch.tensor([0.0, -1e9, 0.0, -1e9]))

    def forward(self, x, ids, scale=2):
        h = self.linear(x)
        if h.sum() > 0:
            h = h * 2
        large = (h * 0 + 12).exp() * 1000
        return (
            (h + self.mask).softmax(-1),
            large / (h.norm() + 1e-12),
            torch.where(ids > 2, ids, self.table).min(),
            h.cumsum(0) * scale,
        )


class Two(nn.Module):
    """Two lowerings that fail only once they are tried."""

    def forward(self, x):
        a = torch.linalg.qr(x)[0].relu()
        b = torch.linalg.qr(x + 1)[0]
        return (a @ b).cumsum(0)


class Counting(nn.Module):
    """Writes a float and an integer buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.total.add_(x)
        self.calls.add_(1)
        return self.total * 2


class Inner(nn.Module):
    def forward(self, x):
        return torch.polar(x, x).real


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Inner(), Inner()

    def forward(self, x):
        return self.second(self.first(x))


X, IDS = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), torch.arange(4)
