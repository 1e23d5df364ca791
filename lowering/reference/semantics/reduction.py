"""Reductions over ``axes``, all of them when none are given."""

from __future__ import annotations

import torch
from torch import Tensor

from lowering.reference.binding import Ints, Semantics


def _dims(x: Tensor, axes: Ints | None) -> tuple[int, ...]:
    return tuple(range(x.ndim)) if axes is None else axes


def reduce_sum(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Sum."""
    return x.sum(_dims(x, axes), keepdim=keep_dims)


def reduce_mean(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Mean; that of integers is truncated."""
    values = x if x.dtype.is_floating_point else x.to(torch.float64)
    return values.mean(_dims(x, axes), keepdim=keep_dims)


def reduce_max(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Largest element."""
    return x.amax(_dims(x, axes), keepdim=keep_dims)


def reduce_min(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Smallest element."""
    return x.amin(_dims(x, axes), keepdim=keep_dims)


def reduce_prod(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Product."""
    for dim in sorted((axis % x.ndim for axis in _dims(x, axes)), reverse=True):
        x = x.prod(dim, keepdim=keep_dims)
    return x


def reduce_sum_square(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Sum of squares."""
    return (x * x).sum(_dims(x, axes), keepdim=keep_dims)


def reduce_l1_norm(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Sum of magnitudes."""
    return x.abs().sum(_dims(x, axes), keepdim=keep_dims)


def reduce_l2_norm(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Root of the sum of squares."""
    return torch.sqrt(reduce_sum_square(x, axes, keep_dims).to(torch.float32))


def reduce_log_sum(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Logarithm of the sum."""
    return torch.log(x.sum(_dims(x, axes), keepdim=keep_dims).to(torch.float32))


def reduce_log_sum_exp(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Logarithm of the sum of exponentials."""
    return torch.logsumexp(x.to(torch.float32), _dims(x, axes), keepdim=keep_dims)


def reduce_argmax(
    x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32"
) -> Tensor:
    """Index of the largest element."""
    return torch.argmax(x, axis, keepdim=keep_dims)


def reduce_argmin(
    x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32"
) -> Tensor:
    """Index of the smallest element."""
    return torch.argmin(x, axis, keepdim=keep_dims)


TABLE: dict[str, Semantics] = {
    "reduce_argmax": reduce_argmax,
    "reduce_argmin": reduce_argmin,
    "reduce_l1_norm": reduce_l1_norm,
    "reduce_l2_norm": reduce_l2_norm,
    "reduce_log_sum": reduce_log_sum,
    "reduce_log_sum_exp": reduce_log_sum_exp,
    "reduce_max": reduce_max,
    "reduce_mean": reduce_mean,
    "reduce_min": reduce_min,
    "reduce_prod": reduce_prod,
    "reduce_sum": reduce_sum,
    "reduce_sum_square": reduce_sum_square,
}
