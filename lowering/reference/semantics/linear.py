"""Matrix products and attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lowering.reference.binding import Semantics


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x (..., I) @ weight (O, I).T + bias (O)``."""
    x, weight = same_type(x, weight)
    if bias is not None:
        bias = bias.to(x.dtype)
    if x.dtype.is_floating_point:
        return F.linear(x, weight, bias)
    product = torch.matmul(x, weight.T)
    return product if bias is None else product + bias


def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """Batched matrix product; batch dimensions broadcast."""
    x, y = same_type(x, y)
    if transpose_x and x.ndim > 1:
        x = x.transpose(-1, -2)
    if transpose_y and y.ndim > 1:
        y = y.transpose(-1, -2)
    return torch.matmul(x, y)


def same_type(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the wider of their types; iOS17 multiplies floats with integers."""
    if x.dtype is y.dtype:
        return x, y
    wider = torch.promote_types(x.dtype, y.dtype)
    return x.to(wider), y.to(wider)


def einsum(values: list[Tensor], equation: str) -> Tensor:
    """Einstein summation; sizes of 1 broadcast."""
    return torch.einsum(equation, *values)


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None
) -> Tensor:
    """``softmax(query @ key.T / sqrt(E) + attn_mask) @ value``.

    ``query (B, ..., L, E)``, ``key (B, ..., S, E)``, ``value (B, ..., S, V)``; ``attn_mask``
    broadcasts to ``(B, ..., L, S)`` and is added, or if bool says what takes part.
    """
    return F.scaled_dot_product_attention(query, key, value, attn_mask)


TABLE: dict[str, Semantics] = {
    "einsum": einsum,
    "linear": linear,
    "matmul": matmul,
    "scaled_dot_product_attention": scaled_dot_product_attention,
}
