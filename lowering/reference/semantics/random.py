"""Random tensors.

Reproducible: an op draws from its ``seed``, or from a number made of its name when it has none
(``seed=-1``), afresh at each call. Core ML's own generator is not public, so values differ from a
device's; shapes and distributions agree.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lowering.reference.binding import Ints, Semantics


def random_uniform(
    shape: Ints, low: float = 0.0, high: float = 1.0, seed: int = -1, salt: int = 0
) -> Tensor:
    """Uniform in ``[low, high)``."""
    return low + (high - low) * torch.rand(shape, generator=_generator(seed, salt))


def random_normal(
    shape: Ints, mean: float = 0.0, stddev: float = 1.0, seed: int = -1, salt: int = 0
) -> Tensor:
    """Normal with given mean and standard deviation."""
    return mean + stddev * torch.randn(shape, generator=_generator(seed, salt))


def random_bernoulli(shape: Ints, prob: float = 0.5, seed: int = -1, salt: int = 0) -> Tensor:
    """1 with probability ``prob``, else 0."""
    return (torch.rand(shape, generator=_generator(seed, salt)) < prob).to(torch.float32)


def random_categorical(
    x: Tensor, mode: str = "logits", size: int = 1, seed: int = -1, salt: int = 0
) -> Tensor:
    """``size`` class numbers drawn per distribution ``x (..., K)``, as floats."""
    weights = torch.softmax(x, -1) if mode == "logits" else x
    flat = weights.reshape(-1, x.shape[-1])
    drawn = torch.multinomial(flat, size, replacement=True, generator=_generator(seed, salt))
    return drawn.reshape(*x.shape[:-1], size).to(torch.float32)


def _generator(seed: int, salt: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed if seed >= 0 else salt)


TABLE: dict[str, Semantics] = {
    "random_bernoulli": random_bernoulli,
    "random_categorical": random_categorical,
    "random_normal": random_normal,
    "random_uniform": random_uniform,
}
