"""Activations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lowering.reference.binding import Semantics
from lowering.reference.errors import ExecutionError

# Slope of the sigmoid approximation of GELU, as MIL defines it.
_GELU_SIGMOID_SLOPE = 1.702


def relu(x: Tensor) -> Tensor:
    """``max(x, 0)``."""
    return torch.relu(x)


def relu6(x: Tensor) -> Tensor:
    """``min(max(x, 0), 6)``."""
    return torch.clamp(x, 0.0, 6.0)


def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    """``min(x, beta)`` where ``x >= 0``, else ``min(alpha * x, beta)``."""
    return torch.clamp(torch.where(x >= 0, x, alpha * x), max=beta)


def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    """``x`` where ``x >= 0``, else ``alpha * x``."""
    return F.leaky_relu(x, alpha)


def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """``x (B, C, ...)`` where positive, else ``alpha (C) * x``."""
    return F.prelu(x, alpha)


def elu(x: Tensor, alpha: float) -> Tensor:
    """``x`` where positive, else ``alpha * (exp(x) - 1)``."""
    return F.elu(x, alpha)


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """Gaussian error linear unit, exact or by the tanh or sigmoid approximation."""
    if mode == "EXACT":
        return F.gelu(x)
    if mode == "TANH_APPROXIMATION":
        return F.gelu(x, approximate="tanh")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(_GELU_SIGMOID_SLOPE * x)
    raise ExecutionError("unknown mode of gelu", found=mode)


def sigmoid(x: Tensor) -> Tensor:
    """``1 / (1 + exp(-x))``."""
    return torch.sigmoid(x)


def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    """``min(max(alpha * x + beta, 0), 1)``."""
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


def silu(x: Tensor) -> Tensor:
    """``x * sigmoid(x)``."""
    return F.silu(x)


def softplus(x: Tensor) -> Tensor:
    """``log(1 + exp(x))``."""
    return torch.logaddexp(x, torch.zeros((), dtype=x.dtype))


def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """``alpha * log(1 + exp(beta * x))``, ``alpha`` and ``beta`` per channel of (B, C, ...)."""
    shape = (1, -1, *[1] * (x.ndim - 2))
    return alpha.reshape(shape) * softplus(x * beta.reshape(shape))


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """``exp(x)`` over its sum along ``axis``."""
    return torch.softmax(x, axis)


def softsign(x: Tensor) -> Tensor:
    """``x / (1 + |x|)``."""
    return F.softsign(x)


def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    """``alpha * tanh(beta * x)``."""
    return alpha * torch.tanh(beta * x)


def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    """``alpha * x + beta``."""
    return alpha * x + beta


def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    """``x`` where ``x >= alpha``, else 0."""
    return torch.where(x >= alpha, x, torch.zeros((), dtype=x.dtype))


TABLE: dict[str, Semantics] = {
    "clamped_relu": clamped_relu,
    "elu": elu,
    "gelu": gelu,
    "leaky_relu": leaky_relu,
    "linear_activation": linear_activation,
    "prelu": prelu,
    "relu": relu,
    "relu6": relu6,
    "scaled_tanh": scaled_tanh,
    "sigmoid": sigmoid,
    "sigmoid_hard": sigmoid_hard,
    "silu": silu,
    "softmax": softmax,
    "softplus": softplus,
    "softplus_parametric": softplus_parametric,
    "softsign": softsign,
    "thresholded_relu": thresholded_relu,
}
