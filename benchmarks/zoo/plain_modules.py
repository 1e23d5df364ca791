"""The other modules of ``plain.py`` that take more than a line."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class EinsumAttention(nn.Module):
    """Blocks of tokens that attend among themselves; five and six axes."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(128, 384)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, 128) to (B, S, 128)."""
        b, s, _ = x.shape
        q, k, v = self.qkv(x).view(b, s // 16, 16, 3, 4, 32).permute(3, 0, 1, 4, 2, 5)
        weights = torch.einsum("bnhqd,bnhkd->bnhqk", q, k).mul(32**-0.5).softmax(-1)
        return torch.einsum("bnhqk,bnhkd->bnqhd", weights, v).reshape(b, s, 128)


class AxialAttention(nn.Module):
    """Attention along rows, then along columns."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.MultiheadAttention(32, 4, batch_first=True)
        self.columns = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 32, H, W) to (B, 32, H, W)."""
        b, c, h, w = x.shape
        y = x.permute(0, 2, 3, 1).reshape(b * h, w, c)
        y = self.rows(y, y, y, need_weights=False)[0].view(b, h, w, c)
        y = y.transpose(1, 2).reshape(b * w, h, c)
        y = self.columns(y, y, y, need_weights=False)[0].view(b, w, h, c)
        return y.permute(0, 3, 2, 1)


class WindowMixer(nn.Module):
    """Windows cut out by a view of rank 6, shifted by a roll."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(49, 49)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 28, 28) to (B, C, 28, 28)."""
        b, c, h, w = x.shape
        y = torch.roll(x, (-3, -3), (2, 3)).view(b, c, h // 7, 7, w // 7, 7)
        y = self.mix(y.permute(0, 2, 4, 1, 3, 5).reshape(-1, c, 49))
        y = y.view(b, h // 7, w // 7, c, 7, 7).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)
        return torch.roll(y, (3, 3), (2, 3))


class NestedOutput(nn.Module):
    """A dictionary of tensors, a tuple and nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 16)

    def forward(self, x: Tensor) -> dict[str, Any]:
        """(B, 32) to a dictionary."""
        y = self.layer(x)
        return {"y": y, "parts": (y[:, :4], {"rest": y[:, 4:]}), "none": None}


class NestedInput(nn.Module):
    """A dictionary with a tuple in it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: dict[str, Any]) -> Tensor:
        """Three (B, 8) to one."""
        one, two = x["pair"]
        return self.layer(x["image"]) * one + two


class InplaceSlices(nn.Module):
    """Assignments to slices, rows and columns, with steps and negative indices."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 16, 32) to (B, 16, 32)."""
        y = x.clone()
        y[:, 2:5, ::2] = x[:, 3:6, 1::2] * 2
        y[:, -1] = 0
        y[..., 3] += 1
        y[:, [1, 7], 4:8] = y[:, [0, 2], 4:8]
        y[:, 8:].mul_(0.5).add_(1)
        return y.clamp_(-2, 2)


class MaskedWrites(nn.Module):
    """``masked_fill``, ``where``, ``scatter``, ``index_add`` and ``index_put``."""

    def forward(self, x: Tensor) -> Tensor:
        """(4, 32) to (4, 32)."""
        y = x.masked_fill(x > 1, 1.0)
        y[x < -1] = -1.0
        order = x.argsort(1)
        y = y.scatter(1, order[:, :3], 0.0)
        rows = torch.tensor([0, 2, 2])
        y = y.index_add(0, rows, x[:3])
        return y.index_put((rows[:2], torch.tensor([5, 6])), x[0, :2], accumulate=True)


class Branches(nn.Module):
    """Python branches on tensors."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 16) to (B, 16)."""
        y = x * 2 if x.sum() > 0 else x - 1
        if y.abs().max() > 3:
            y = y / 2
        return y


class Cond(nn.Module):
    """``torch.cond``."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 16) to (B, 16)."""
        return torch.cond(x.mean() > 0, lambda v: v.sin(), lambda v: v.cos(), (x,))


class MixedDtypes(nn.Module):
    """Promotion between float, int64, bool and uint8, and integer division."""

    def forward(self, x: Tensor, n: Tensor, b: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Four (B, 16) to two."""
        y = x * n + b * 2 - u / 3 + (n // 4) + (n % 5)
        k = (n + b) * (n > 0) + u.long().bitwise_and(7) - torch.div(n, 3, rounding_mode="trunc")
        return y, k


class DeepFm(nn.Module):
    """A factorisation machine beside a deep net, on fields of categories."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(200, 16)
        self.bias = nn.Embedding(200, 1)
        self.deep = nn.Sequential(nn.Linear(160, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, fields: Tensor) -> Tensor:
        """Categories (B, 10) to (B,)."""
        v = self.table(fields)
        pairs = 0.5 * (v.sum(1).square() - v.square().sum(1)).sum(1)
        return torch.sigmoid(self.bias(fields).sum((1, 2)) + pairs + self.deep(v.flatten(1))[:, 0])


class GraphConvolution(nn.Module):
    """Messages along edges, summed at their ends."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 16)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Nodes (N, 32) and edges (2, E) to (N, 16)."""
        start, end = edges
        messages = self.layer(x)[start]
        degree = torch.zeros(x.shape[0]).index_add(0, end, torch.ones(end.shape[0]))
        total = torch.zeros(x.shape[0], 16).scatter_add(0, end[:, None].expand(-1, 16), messages)
        return total / degree.clamp(min=1)[:, None]


class VectorQuantizer(nn.Module):
    """The nearest code of each vector."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Embedding(64, 32)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 32, S) to the quantized (B, 32, S) and codes (B, S)."""
        y = x.transpose(1, 2)
        found = torch.cdist(y, self.codes.weight[None]).argmin(-1)
        return (y + (self.codes(found) - y).detach()).transpose(1, 2), found


class DiagonalScan(nn.Module):
    """A diagonal state-space layer, as a loop over time."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.rand(24, 8).neg())
        self.b = nn.Parameter(torch.randn(24, 8))
        self.c = nn.Parameter(torch.randn(24, 8))
        self.step = nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, 24) to (B, S, 24)."""
        width = F.softplus(self.step(x))[..., None]
        decay, drive = (width * self.a).exp(), width * self.b * x[..., None]
        state = torch.zeros_like(drive[:, 0])
        found = []
        for i in range(x.shape[1]):
            state = decay[:, i] * state + drive[:, i]
            found.append((state * self.c).sum(-1))
        return torch.stack(found, 1)


class Splines(nn.Module):
    """Cubic B-splines of each input, as in Kolmogorov-Arnold networks."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("knots", torch.linspace(-2, 2, 12))
        self.weight = nn.Parameter(torch.randn(8, 16, 8))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 16) to (B, 8)."""
        knots: Any = self.knots
        x = x.clamp(-1.9, 1.9)[..., None]
        basis = ((x >= knots[:-1]) & (x < knots[1:])).to(x.dtype)
        for k in (1, 2, 3):
            left = (x - knots[: -k - 1]) / (knots[k:-1] - knots[: -k - 1])
            right = (knots[k + 1 :] - x) / (knots[k + 1 :] - knots[1:-k])
            basis = left * basis[..., :-1] + right * basis[..., 1:]
        return torch.einsum("bik,oik->bo", basis, self.weight)


class FourierFeatures(nn.Module):
    """Sines and cosines of coordinates, then a net with a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bands", 2.0 ** torch.arange(6) * math.pi)
        self.one, self.two = nn.Linear(39, 64), nn.Linear(64 + 39, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3) to colours and a density (N, 4)."""
        bands: Any = self.bands
        angles = (x[..., None] * bands).flatten(-2)
        y = torch.cat([x, angles.sin(), angles.cos()], -1)
        out = self.two(torch.cat([self.one(y).relu(), y], -1))
        return torch.cat([out[:, :3].sigmoid(), F.softplus(out[:, 3:])], -1)


class CacheIndexCopy(nn.Module):
    """A cache of 32 positions, one written in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.zeros(1, 4, 32, 16))

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """One position (1, 4, 1, 16) to scores (1, 4, 1, 32)."""
        cache: Any = self.cache
        cache.index_copy_(2, position, x)
        return x @ cache.mT


class CacheAtPosition(nn.Module):
    """A decoder step as people write it: keys and values go into a cache at a position."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)
        self.register_buffer("keys", torch.zeros(1, 4, 32, 16))
        self.register_buffer("values", torch.zeros(1, 4, 32, 16))

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """One token (1, 1, 64) at ``position`` () to (1, 1, 64)."""
        keys: Any = self.keys
        values: Any = self.values
        query, key, value = self.qkv(x).view(1, 3, 4, 16).unbind(1)
        keys[:, :, position], values[:, :, position] = key, value
        seen = torch.arange(32) <= position
        found = F.scaled_dot_product_attention(
            query[:, :, None], keys, values, attn_mask=seen[None]
        )
        return self.out(found.reshape(1, 1, 64))


class RunningAverage(nn.Module):
    """A buffer that every call moves."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        """(1, 16) less its running mean."""
        mean: Any = self.mean
        mean.mul_(0.9).add_(x[0], alpha=0.1)
        return x - mean


class Router(nn.Module):
    """Two of four experts for each token, weighted; every expert runs."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(64, 4)
        self.experts = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, 64) to (B, S, 64)."""
        weights, chosen = self.gate(x).softmax(-1).topk(2, -1)
        dense = torch.zeros(*x.shape[:-1], 4).scatter(-1, chosen, weights / weights.sum(-1, True))
        each = torch.stack([expert(x) for expert in self.experts], -1)
        return (each * dense.unsqueeze(-2)).sum(-1)


class Norms(nn.Module):
    """Every normalisation in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(32),
            nn.GroupNorm(4, 32),
            nn.InstanceNorm1d(32, affine=True),
            nn.LocalResponseNorm(3),
            nn.LayerNorm([32, 16]),
            nn.RMSNorm(16),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 32, 16) to (B, 32, 16)."""
        return F.normalize(self.layers(x), p=2.0, dim=-1)


class Activations(nn.Module):
    """Every activation, summed."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 64) to (B, 64)."""
        kinds = (
            F.relu6,
            F.elu,
            F.selu,
            F.celu,
            F.gelu,
            F.silu,
            F.mish,
            F.hardswish,
            F.hardsigmoid,
            F.hardtanh,
            F.softplus,
            F.softsign,
            F.tanhshrink,
            F.logsigmoid,
            F.softshrink,
            F.hardshrink,
            F.leaky_relu,
        )
        y = sum(kind(x) for kind in kinds) + F.gelu(x, approximate="tanh")
        return y + F.glu(torch.cat([x, -x], -1)) + F.threshold(x, 0.1, 0.0)


class Shared(nn.Module):
    """One layer used three times, its weight tied to another."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)
        self.tied = nn.Linear(64, 64, bias=False)
        self.tied.weight = self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, 64) to (B, S, 64)."""
        return self.tied(self.layer(self.layer(self.layer(x).relu()).relu()))


class Siamese(nn.Module):
    """Two inputs through one tower."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Conv2d(1, 8, 5), nn.ReLU(), nn.Flatten(), nn.Linear(4608, 16))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two images (B, 1, 28, 28) to their similarity (B,)."""
        return F.cosine_similarity(self.tower(a), self.tower(b))
