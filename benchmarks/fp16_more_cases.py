"""More models that float16 harms, or might: signals, geometry, statistics, filters and streams."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.fp16_case import Case, of


class Growing(nn.Module):
    """Residual layers of which each adds three times as much as the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
            for _ in range(10)
        )
        self.norm = nn.LayerNorm(32)
        with torch.no_grad():
            for depth, layer in enumerate(self.layers, 1):
                last: nn.Linear = layer[3]  # type: ignore[index]
                last.weight.mul_(3.0**depth)
                last.bias.mul_(3.0**depth)

    def forward(self, x: Tensor) -> Tensor:
        """(1, tokens, 32) to the same."""
        for layer in self.layers:
            x = x + layer(x)
        result: Tensor = self.norm(x)
        return result


class Kalman(nn.Module):
    """A filter of one number, from measurements and their variances (rows, steps)."""

    def forward(self, measured: Tensor, noise: Tensor) -> Tensor:
        """What is believed after each step."""
        mean, variance = torch.zeros_like(measured[:, 0]), torch.full_like(measured[:, 0], 1e4)
        found = []
        for step in range(measured.shape[1]):
            variance = variance + 1e-3
            gain = variance / (variance + noise[:, step])
            mean = mean + gain * (measured[:, step] - mean)
            variance = (1 - gain) * variance
            found.append(mean)
        return torch.stack(found, 1)


class TimeInUnit(nn.Module):
    """The embedding of a time between 0 and 1, a thousand of which are a period."""

    def forward(self, time: Tensor) -> Tensor:
        """(n,) to (n, 32)."""
        speed = torch.exp(-math.log(10000) * torch.arange(16, dtype=torch.float32) / 15)
        angle = 1000.0 * time[:, None] * speed
        return torch.cat([angle.sin(), angle.cos()], -1)


class Interleaved(nn.Module):
    """Rotary queries whose pairs are neighbours, at positions that are an input."""

    speed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("speed", 500000 ** (-torch.arange(8).float() / 8))

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """(1, tokens, 2, 16) and (tokens,) to (1, tokens, 2, 16)."""
        angle = torch.outer(positions.float(), self.speed)[:, None]
        one, other = x[..., ::2], x[..., 1::2]
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([one * cos - other * sin, one * sin + other * cos], -1).flatten(-2)


class LogMel(nn.Module):
    """The features of a speech model, from a sound (1, 1, samples)."""

    bank: Tensor
    waves: Tensor

    def __init__(self) -> None:
        super().__init__()
        angle = torch.outer(torch.arange(65.0), torch.arange(128.0)) * 2 * torch.pi / 128
        waves = torch.cat([angle.cos(), angle.sin()]) * torch.hann_window(128)
        self.register_buffer("waves", waves[:, None])
        self.register_buffer("bank", torch.rand(65, 20) / 30)

    def forward(self, sound: Tensor) -> Tensor:
        """To (1, frames, 20)."""
        real, imaginary = F.conv1d(sound, self.waves, stride=32).chunk(2, 1)
        power = real**2 + imaginary**2
        logs = (power.mT @ self.bank).clamp(min=1e-10).log10()
        return (torch.maximum(logs, logs.max() - 8.0) + 4.0) / 4.0


class Gated(nn.Module):
    """The gated layers of a language model where a few products are massive, and a norm after."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(32, 64), nn.Linear(32, 64), nn.Linear(64, 32)
        with torch.no_grad():
            self.gate.weight.mul_(400)
            self.up.weight.mul_(400)

    def forward(self, x: Tensor) -> Tensor:
        """(1, tokens, 32) to the same."""
        return F.layer_norm(self.down(F.silu(self.gate(x)) * self.up(x)), (32,))


def gaussian(x: Tensor) -> Tensor:
    """A narrow density."""
    return torch.exp(-0.5 * ((x - 3) / 1e-3) ** 2) / (1e-3 * math.sqrt(2 * math.pi))


def divergence(x: Tensor, y: Tensor) -> Tensor:
    """Kullback and Leibler's, of the distributions that scores stand for."""
    return (x.softmax(-1) * (x.log_softmax(-1) - y.log_softmax(-1))).sum(-1)


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's, of rows."""
    one, other = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    return (one * other).mean(-1) / (x.std(-1) * y.std(-1))


def skewness(x: Tensor) -> Tensor:
    """Of rows."""
    return ((x - x.mean(-1, keepdim=True)) ** 3).mean(-1) / x.std(-1) ** 3


def on_sphere(a: Tensor, b: Tensor) -> Tensor:
    """Kilometres between places (n, 2) in radians, by the haversine."""
    north, east = ((a - b) / 2).sin().square().unbind(-1)
    return 2 * 6371 * torch.asin(torch.sqrt(north + a[:, 0].cos() * b[:, 0].cos() * east))


def overlap(box: Tensor) -> Tensor:
    """Area over squared sides, of boxes (n, 4) in pixels."""
    sides = box[:, 2:] - box[:, :2]
    return sides.prod(-1) / (sides.square().sum(-1) + 1e-9)


def laplacian(picture: Tensor) -> Tensor:
    """Of a picture (1, 3, height, width)."""
    around = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).expand(3, 1, 3, 3)
    return F.conv2d(picture, around, groups=3)


def horner(x: Tensor) -> Tensor:
    """A polynomial near one of its roots."""
    result = torch.zeros_like(x)
    for coefficient in (1.0, -20.0, 150.0, -500.0, 624.0):
        result = result * x + coefficient
    return result


def rendered(density: Tensor) -> Tensor:
    """What each of the samples along a ray (1, samples) adds, as radiance fields sum it."""
    seen = torch.exp(-density)
    return torch.cumprod(seen + 1e-10, -1) * (1 - seen)


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Of many tokens (1, tokens, features), whose sums grow with their number."""
    q, k = F.elu(q) + 1, F.elu(k) + 1
    return (q @ (k.mT @ v)) / (q @ k.sum(-2, keepdim=True).mT + 1e-6)


def of_directions(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention whose scores are of unit vectors, and sharp."""
    return (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * 100).softmax(-1) @ v


def colatitude(v: Tensor) -> Tensor:
    """Of directions (n, 3) that are nearly upright."""
    return torch.acos(v[:, 2] / v.norm(dim=-1))


def gumbel(u: Tensor) -> Tensor:
    """Noise from numbers in 0 to 1."""
    return -torch.log(-torch.log(u + 1e-10) + 1e-10)


def more_cases() -> tuple[Case, ...]:
    """The same numbers for the same seed."""
    x, y, p = torch.randn(2, 64), torch.randn(2, 64), torch.rand(2, 64)
    image, tokens = torch.randn(1, 8, 12, 12), torch.randn(1, 16, 32)
    narrow = nn.BatchNorm2d(8, eps=1e-12).eval()
    wide = nn.BatchNorm2d(8).eval()
    narrow.running_var.fill_(1e-8)  # type: ignore[union-attr]
    wide.running_var.fill_(1e6)  # type: ignore[union-attr]
    wide.running_mean.fill_(3e3)  # type: ignore[union-attr]
    small = nn.utils.parametrizations.weight_norm(nn.Linear(64, 32))
    with torch.no_grad():
        small.parametrizations.weight.original1.mul_(1e-5)
    places = 0.8 + 1e-3 * torch.rand(8, 2)
    positions, heads = torch.arange(16), torch.randn(1, 16, 2, 16)
    return (
        Case("GroupNorm about a large mean", nn.GroupNorm(4, 8), (image + 500,)),
        Case("InstanceNorm of small", nn.InstanceNorm2d(8), (1e-4 * image + 0.1,)),
        Case("BatchNorm, variance 1e-8", narrow, (1e-4 * image,)),
        Case("BatchNorm, variance 1e6", wide, (1e3 * image + 3e3,)),
        Case("weight norm of small", small, (x,)),
        Case("residual that grows", Growing(), (tokens,)),
        Case("Kalman filter", Kalman(), (x[:, :12] + 5, p[:, :12] + 0.1)),
        Case("time in 0..1", TimeInUnit(), (torch.tensor([0.25, 0.999]),)),
        Case("rotary of pairs", Interleaved(), (heads, positions), ((heads, positions + 100000),)),
        Case("log-mel", LogMel(), (0.02 * torch.randn(1, 1, 2048),)),
        of("softmax at 1e-3", lambda x: (x / 1e-3).softmax(-1), p),
        of("softmax, shifted by hand", lambda x: (x - 20).exp() / (x - 20).exp().sum(-1, True), x),
        of("softmax of 50,000", lambda x, w: (x @ w.T).softmax(-1), x, torch.randn(50000, 64) / 4),
        of("cdist", torch.cdist, x + 30, y + 30),
        of("pairwise distance", F.pairwise_distance, 300 * x, 300 * y),
        of("distance, eps 1e-12", lambda x: (x.square().sum(-1) + 1e-12).sqrt(), 1e-5 * x),
        of("erfinv", torch.erfinv, 1 - 1e-4 * p),
        of("normal quantile", torch.special.ndtri, 1e-5 * p + 1e-6),
        of("expm1", torch.expm1, 1e-4 * x),
        of("log1p", torch.log1p, 1e-5 * p),
        of("logsigmoid", F.logsigmoid, 12 * p),
        of("cumsum of 4,096", lambda x: x.cumsum(-1), torch.randn(1, 4096)),
        of("mean of 100,000", lambda x: x.mean(-1), 8 * torch.rand(1, 100000)),
        of("sum over a count", lambda x: x.sum(-1) / x.shape[-1], 8 * torch.rand(1, 100000)),
        of("mean of what is centred", lambda x: (x - x.mean()).mean(-1), torch.rand(4, 4096)),
        of("remainder", lambda n: n - torch.floor(n / 60) * 60, torch.arange(3000.0, 3200.0)[None]),
        of("x³ over x²", lambda x: x**3 / (1 + x**2), 60 * x),
        of("polynomial", horner, 5 + 0.2 * x),
        of("Laplacian", laplacian, 1 + 0.02 * torch.rand(1, 3, 16, 16)),
        of(
            "unit vectors of 4,096",
            lambda x: x / x.norm(dim=-1, keepdim=True),
            50 * x.repeat(1, 64),
        ),
        of("density", gaussian, 3 + 1e-3 * x),
        of("divergence", divergence, x, x + 0.05 * y),
        of("correlation", correlation, 300 * x, 300 * (x + y)),
        of("skewness", skewness, 100 * x.abs()),
        of(
            "covariance",
            lambda x: (x - x.mean(0)).T @ (x - x.mean(0)) / 500,
            40 * torch.randn(500, 8),
        ),
        of("magnitude of complex", lambda a, b: (a * a + b * b).sqrt(), 1e-4 * x, 1e-4 * y),
        of("atan2 of small", torch.atan2, 1e-5 * x, 1e-5 * y),
        of("on a sphere", on_sphere, places, places.flip(0)),
        of("area over sides", overlap, 600 * torch.rand(20, 4)),
        of("cross product", torch.linalg.cross, 400 * torch.randn(9, 3), 400 * torch.randn(9, 3)),
        of("unit quaternion", F.normalize, 1e-5 * torch.randn(9, 4)),
        of("rendering", rendered, 1e-2 * torch.rand(1, 128)),
        of("moving average's step", lambda a, b: (0.9999 * a + 1e-4 * b) - a, x, y),
        of("tanh by hand", lambda x: ((2 * x).exp() - 1) / ((2 * x).exp() + 1), 5 * x),
        of("geometric mean", lambda x: x.prod(-1) ** (1 / 16), 8 + torch.rand(2, 16)),
        of("harmonic mean", lambda x: 1 / (1 / (x + 1e-6)).sum(-1), 1e-3 * p),
        of("decibels of noise", lambda x: -10 * x.square().mean(-1).log10(), 1e-4 * x),
        of("power pooling", lambda x: F.lp_pool2d(x, 2.0, 3), 200 * image),
        of("response norm", lambda x: F.local_response_norm(x, 5), 100 * image),
        of("xlogy", torch.special.xlogy, 1e-6 * p, p),
        Case("gated layers, massive", Gated(), (4 * tokens,)),
        of("bilinear form", lambda a, b: torch.einsum("bi,bi->b", a, b), 60 * x.abs(), 60 * p),
        of("linear attention", linear_attention, *torch.randn(3, 1, 2048, 16).mul(3).unbind()),
        of(
            "sines of pixels",
            lambda p: (p @ torch.tensor([[30.0, 11], [7, 25]])).sin(),
            90 * p.view(-1, 2),
        ),
        of("colatitude", colatitude, torch.tensor([0.0, 0, 1]) + 1e-2 * torch.randn(8, 3)),
        of("Gumbel noise", gumbel, 1 - 1e-3 * p),
        of("erfc of its tail", torch.erfc, 2 + 2 * p),
        of("acosh near 1", torch.acosh, 1 + 1e-3 * p),
        of("log of cosh", lambda x: x.cosh().log(), 1e-2 * x),
        of("fraction", lambda x: torch.remainder(x * 100, 1.0), 20 * p),
        of("std of near rows", lambda x: x.std(0), 1 + 1e-4 * torch.randn(4, 64)),
        of("Box-Cox", lambda x: ((x + 1e-6) ** 0.01 - 1) / 0.01, 1 + 1e-2 * p),
        of("attention of directions", of_directions, *torch.randn(3, 1, 2, 8, 16).unbind()),
    )
