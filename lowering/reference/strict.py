"""Ops that sum, with the running sum rounded to fp16 after each addition.

The order is that of the elements, one multiply-add at a time: the pessimistic end of what fp16
hardware does (*assumed*; how the Neural Engine accumulates is not public). Recurrent layers and
resampling keep their fp32 inner sums.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lowering.reference.binding import Ints, Semantics
from lowering.reference.precision import round_to_fp16
from lowering.reference.semantics import conv as exact_conv
from lowering.reference.semantics import linear as exact_linear
from lowering.reference.semantics import pool as exact_pool
from lowering.reference.semantics.windows import pad_spatial, window_pads


def accumulate(terms: Iterable[Tensor]) -> Tensor:
    """Sum of ``terms``, rounded after each addition."""
    total = torch.zeros(())
    for term in terms:
        total = round_to_fp16(total + term)
    return total


def _sum(x: Tensor, axes: Ints | None, keep_dims: bool) -> Tensor:
    dims = sorted(axis % x.ndim for axis in axes) if axes is not None else list(range(x.ndim))
    if not dims:
        return x
    ordered = x.movedim(dims, list(range(len(dims)))).flatten(0, len(dims) - 1)
    total = accumulate(ordered)
    if keep_dims:
        for dim in dims:
            total = total.unsqueeze(dim)
    return total


def _product(x: Tensor, y: Tensor) -> Tensor:
    """``x (..., M, K) @ y (..., K, N)``."""
    return accumulate(x[..., k : k + 1] * y[..., k : k + 1, :] for k in range(x.shape[-1]))


def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """Batched matrix product."""
    x, y = exact_linear.same_type(x, y)
    if transpose_x and x.ndim > 1:
        x = x.transpose(-1, -2)
    if transpose_y and y.ndim > 1:
        y = y.transpose(-1, -2)
    product = _product(x if x.ndim > 1 else x[None], y if y.ndim > 1 else y[:, None])
    if y.ndim == 1:
        product = product.squeeze(-1)
    return product.squeeze(-2 if y.ndim > 1 else -1) if x.ndim == 1 else product


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x (..., I) @ weight (O, I).T + bias (O)``."""
    product = matmul(x, weight, transpose_y=True)
    return product if bias is None else product + bias


def einsum(values: list[Tensor], equation: str) -> Tensor:
    """MIL's two equations, ``nchw,nwhu->nchu`` and ``chw,whr->chr``: a product per (n, h)."""
    if len(values) != 2 or values[0].ndim not in (3, 4):
        return exact_linear.einsum(values, equation)
    x, y = values
    return _product(x.transpose(-3, -2), y.transpose(-3, -2)).transpose(-3, -2)


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None
) -> Tensor:
    """Attention, each intermediate rounded."""
    scale = torch.tensor(query.shape[-1]).float().rsqrt()
    scores = round_to_fp16(matmul(query, key, transpose_y=True) * scale)
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = round_to_fp16(scores + attn_mask)
    return matmul(round_to_fp16(softmax(scores)), value)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """Convolution as a product of patches ``(B, G, P, C K)`` and weights ``(G, C K, O)``."""
    rank = x.ndim - 2
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    kernel = weight.shape[2:]
    pads = window_pads(pad_type, pad, x.shape[2:], kernel, strides, dilations)
    windows = pad_spatial(x, pads)
    for dim in range(rank):
        span = (kernel[dim] - 1) * dilations[dim] + 1
        windows = windows.unfold(2 + dim, span, strides[dim])[..., :: dilations[dim]]
    batch, _, *sizes = windows.shape[: 2 + rank]
    windows = windows.reshape(batch, groups, -1, *windows.shape[2:])
    order = [0, 1, *range(3, 3 + rank), 2, *range(3 + rank, 3 + 2 * rank)]
    patches = windows.permute(order).flatten(2 + rank).flatten(2, 1 + rank)
    filters = weight.to(x.dtype).reshape(groups, weight.shape[0] // groups, -1).transpose(1, 2)
    y = _product(patches, filters).transpose(2, 3).reshape(batch, weight.shape[0], *sizes)
    return y if bias is None else y + bias.reshape(1, -1, *[1] * rank)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Ints | None = None,
    output_shape: Ints | None = None,
    pad_type: str = "valid",
    strides: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """As a convolution over ``x`` with zeros between its elements, by the flipped kernel."""
    rank = x.ndim - 2
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    kernel = weight.shape[2:]
    crops = exact_conv.transpose_crops(
        x.shape[2:], kernel, pad, output_shape, pad_type, strides, dilations
    )
    sizes = [(size - 1) * step + 1 for size, step in zip(x.shape[2:], strides, strict=True)]
    spread = torch.zeros(*x.shape[:2], *sizes)
    every = (slice(None), slice(None), *[slice(None, None, step) for step in strides])
    spread[every] = x
    spans = [(width - 1) * step for width, step in zip(kernel, dilations, strict=True)]
    around = tuple(span for span in spans for _ in range(2))
    inner = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2)
    filters = inner.flatten(0, 1).flip(tuple(range(2, 2 + rank)))
    y = conv(spread, filters, None, None, "custom", around, dilations, groups)
    y = pad_spatial(y, crops)
    return y if bias is None else y + bias.reshape(1, -1, *[1] * rank)


def avg_pool(
    x: Tensor,
    kernel_sizes: Ints,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    """Sum per window over the number of elements that count."""
    rank = x.ndim - 2
    strides, pads = exact_pool.layout(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    windows = pad_spatial(x, pads)
    for dim in range(rank):
        windows = windows.unfold(2 + dim, kernel_sizes[dim], strides[dim])
    total = _sum(windows, tuple(range(2 + rank, 2 + 2 * rank)), False)
    return total / exact_pool.divisor(x, kernel_sizes, strides, pads, exclude_padding_from_average)


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Exponentials over their rounded sum."""
    powers = round_to_fp16(torch.exp(x - x.amax(axis, keepdim=True)))
    return powers / _sum(powers, (axis,), True)


def _normalized(x: Tensor, dims: Ints, epsilon: float) -> Tensor:
    mean = reduce_mean(x, dims, True)
    centred = round_to_fp16(x - round_to_fp16(mean))
    variance = round_to_fp16(reduce_mean(centred * centred, dims, True))
    return round_to_fp16(centred * torch.rsqrt(variance + epsilon))


def layer_norm(
    x: Tensor,
    axes: Ints | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """``x`` normalized over ``axes``, each intermediate rounded."""
    dims = tuple(sorted(axis % x.ndim for axis in (axes or range(x.ndim))))
    shape = [x.shape[dim] if dim in dims else 1 for dim in range(x.ndim)]
    return _scaled(_normalized(x, dims, epsilon), gamma, beta, shape)


def instance_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    """``x (B, C, ...)`` normalized over its spatial dimensions, each intermediate rounded."""
    y = _normalized(x, tuple(range(2, x.ndim)), epsilon)
    return _scaled(y, gamma, beta, [1, -1, *[1] * (x.ndim - 2)])


def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """``x`` over the root of the rounded sum of squares of its innermost three dimensions."""
    return x * torch.rsqrt(_sum(x * x, (-3, -2, -1), True) + epsilon)


def _scaled(x: Tensor, gamma: Tensor | None, beta: Tensor | None, shape: list[int]) -> Tensor:
    if gamma is not None:
        x = x * gamma.reshape(shape)
    return x if beta is None else x + beta.reshape(shape)


def reduce_sum(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Sum."""
    return _sum(x, axes, keep_dims)


def reduce_mean(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Mean."""
    total = _sum(x, axes, keep_dims)
    return total * (total.numel() / x.numel()) if x.numel() else total


def reduce_sum_square(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Sum of squares."""
    return _sum(x * x, axes, keep_dims)


def reduce_l1_norm(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Sum of magnitudes."""
    return _sum(x.abs(), axes, keep_dims)


def reduce_l2_norm(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Root of the sum of squares."""
    return torch.sqrt(_sum(x * x, axes, keep_dims))


def reduce_log_sum(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Logarithm of the sum."""
    return torch.log(_sum(x, axes, keep_dims))


def reduce_log_sum_exp(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Logarithm of the sum of exponentials."""
    dims = tuple(range(x.ndim)) if axes is None else axes
    top = x.amax(dims, keepdim=True)
    total = torch.log(_sum(round_to_fp16(torch.exp(x - top)), dims, True)) + top
    return total if keep_dims else total.squeeze(dims)


def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Running sum along ``axis``."""
    elements = list(x.unbind(axis))
    total, sums = torch.zeros_like(elements[0]), []
    for element in reversed(elements) if reverse else elements:
        following = round_to_fp16(total + element)
        sums.append(total if exclusive else following)
        total = following
    return torch.stack(sums[::-1] if reverse else sums, axis)


STRICT_SEMANTICS: dict[str, Semantics] = {
    "avg_pool": avg_pool,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "cumsum": cumsum,
    "einsum": einsum,
    "instance_norm": instance_norm,
    "l2_norm": l2_norm,
    "layer_norm": layer_norm,
    "linear": linear,
    "matmul": matmul,
    "reduce_l1_norm": reduce_l1_norm,
    "reduce_l2_norm": reduce_l2_norm,
    "reduce_log_sum": reduce_log_sum,
    "reduce_log_sum_exp": reduce_log_sum_exp,
    "reduce_mean": reduce_mean,
    "reduce_sum": reduce_sum,
    "reduce_sum_square": reduce_sum_square,
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "softmax": softmax,
}
