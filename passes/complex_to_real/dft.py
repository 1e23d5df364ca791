"""Discrete Fourier transforms as products with constant matrices of cosines and sines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import fx

from passes.patterns.nodes import aten, shape
from passes.rewriter import Rewriter

# A value with a real and an imaginary part of equal shape and dtype.
Pair = tuple[fx.Node, fx.Node]

# Both matrices of one axis: above this they would outweigh many a model.
MAX_MATRIX_BYTES = 128 << 20
_FLOAT_BYTES = 4


def refusal(value: fx.Node, axes: Sequence[int], length: int | None = None) -> str | None:
    """Why a transform along ``axes`` cannot be written as matrices; ``None`` if it can.

    Args:
        value: what is transformed.
        axes: along which.
        length: of the result along the last of them, where it differs.
    """
    for position, at in enumerate(axes):
        size = shape(value)[at]
        if position == len(axes) - 1 and length is not None:
            size = length
        if not isinstance(size, int):
            return "the length of its Fourier transform is not fixed"
        if 2 * size * size * _FLOAT_BYTES > MAX_MATRIX_BYTES:
            return f"its Fourier transform of {size} points is too long for a matrix"
    return None


def real_to_complex(
    rw: Rewriter, x: fx.Node, axes: Sequence[int], normalization: int, onesided: bool
) -> Pair:
    """``_fft_r2c``: the last of ``axes`` from real to complex, the others complex."""
    last = axes[-1]
    size = shape(x)[last]
    bins = size // 2 + 1 if onesided else size
    # Not the negative of a product: minus zero has the angle -pi beside a negative real part.
    cosines, sines = _matrices(rw, size, bins, _factor(size, normalization), sign=-1.0)
    pair = (_along(rw, x, last, cosines), _along(rw, x, last, sines))
    return complex_to_complex(rw, pair, axes[:-1], normalization, forward=True)


def complex_to_complex(
    rw: Rewriter, pair: Pair, axes: Sequence[int], normalization: int, *, forward: bool
) -> Pair:
    """``_fft_c2c``: (a + ib)(c - is) along each axis forwards, (a + ib)(c + is) backwards."""
    for at in axes:
        size = shape(pair[0])[at]
        cosines, sines = _matrices(rw, size, size, _factor(size, normalization))
        re_c, re_s, im_c, im_s = (
            _along(rw, part, at, matrix) for part in pair for matrix in (cosines, sines)
        )
        plus, minus = aten.add.Tensor, aten.sub.Tensor
        pair = (
            rw.emit(plus if forward else minus, re_c, im_s),
            rw.emit(minus if forward else plus, im_c, re_s),
        )
    return pair


def complex_to_real(
    rw: Rewriter, pair: Pair, axes: Sequence[int], normalization: int, length: int
) -> fx.Node:
    """``_fft_c2r``: the inverse of ``real_to_complex`` with ``length`` points on the last axis.

    Of the last axis the first ``length // 2 + 1`` bins count, each but the first and, for an even
    length, the last one twice: for itself and for its mirror image.
    """
    last = axes[-1]
    pair = complex_to_complex(rw, pair, axes[:-1], normalization, forward=False)
    bins = length // 2 + 1
    if shape(pair[0])[last] != bins:
        re, im = (rw.emit(aten.slice.Tensor, part, last, 0, bins) for part in pair)
        pair = (re, im)
    weights = torch.full((bins, 1), 2.0, dtype=torch.float64)
    weights[0] = 1.0
    if length % 2 == 0:
        weights[-1] = 1.0
    cosines, sines = _matrices(rw, bins, length, _factor(length, normalization), length, weights)
    return rw.emit(
        aten.sub.Tensor, _along(rw, pair[0], last, cosines), _along(rw, pair[1], last, sines)
    )


def _factor(size: int, normalization: int) -> float:
    """Of one axis: 0 none, 1 the root of its length, 2 its length (torch's fft_norm_mode)."""
    return {0: 1.0, 1: 1.0 / math.sqrt(size), 2: 1.0 / size}[normalization]


def _matrices(
    rw: Rewriter,
    rows: int,
    columns: int,
    factor: float,
    period: int | None = None,
    weights: torch.Tensor | None = None,
    sign: float = 1.0,
) -> Pair:
    """Cosines and ``sign`` times sines of 2 pi n k / period, (rows, columns), rounded once.

    Zeros are zeros, as in a fast transform: spectra of real signals have real ends.
    """
    period = period or rows
    turns = torch.arange(rows)[:, None] * torch.arange(columns)[None] % period
    angles = turns.double() * (2.0 * math.pi / period)
    scale = factor if weights is None else factor * weights
    cosines = torch.where(4 * turns % (2 * period) == period, 0.0, angles.cos()) * scale
    sines = torch.where(2 * turns % period == 0, 0.0, angles.sin() * sign) * scale
    name = f"dft_{period}_{rows}x{columns}"
    return rw.constant(f"{name}_cos", cosines.float()), rw.constant(f"{name}_sin", sines.float())


def _along(rw: Rewriter, x: fx.Node, at: int, matrix: fx.Node) -> fx.Node:
    """``x`` times ``matrix`` (N, K) along the axis ``at`` of length N."""
    rank = len(shape(x))
    order = list(range(rank))
    at %= rank
    order[at], order[-1] = order[-1], order[at]
    if at == rank - 1:
        return rw.emit(aten.matmul.default, x, matrix)
    turned = rw.emit(aten.permute.default, x, order)
    return rw.emit(aten.permute.default, rw.emit(aten.matmul.default, turned, matrix), order)
