"""Pooling: windows that MIL's own operators do not have.

coremltools 9.0 ignores what ``ceil_mode`` does to the divisor of an average pool
(apple/coremltools#2772) and refuses another divisor (#2745), dilated max-pools (#1665) and the
positions of maxima (#2456).
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from coremltools.converters.mil.mil import Var

from lowering.conversion.builder import Lowered, Lowering, MilBuilder

aten = torch.ops.aten


def _known(sizes: Sequence[Any]) -> bool:
    return all(isinstance(size, (int, np.integer)) for size in sizes)


def _per_axis(spatial: int, *options: Sequence[int]) -> list[list[int]]:
    return [list(o) * spatial if len(o) == 1 else list(o) for o in options]


def _avg_pool(spatial: int) -> Lowering:
    def lower(
        mb: MilBuilder,
        x: Var,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Lowered:
        if not ceil_mode and divisor_override is None:
            return NotImplemented
        kernel, stride, padding = _per_axis(spatial, kernel, stride or kernel, padding)
        sizes, results = x.shape[-spatial:], mb.result.shape[-spatial:]
        if not _known((*sizes, *results)):
            return NotImplemented
        counts, pads, windows = [], [], []
        for size, result, width, step, edge in zip(
            sizes, results, kernel, stride, padding, strict=True
        ):
            start = np.arange(result) * step - edge
            low, high = (-edge, size + edge) if count_include_pad else (0, size)
            counts.append(np.minimum(start + width, high) - np.maximum(start, low))
            # A single window may be far wider than the image: what is outside adds nothing.
            windows.append(min(width, size + 2 * edge) if result == 1 else width)
            pads += [edge, max(0, (result - 1) * step + windows[-1] - size - edge)]
        x = mb.pad(
            x=x, pad=[0] * (2 * (x.rank - spatial)) + pads, mode="constant", constant_val=0.0
        )
        pooled = mb.avg_pool(x=x, kernel_sizes=windows, strides=stride, pad_type="valid")
        volume = float(np.prod(windows))
        if divisor_override is not None:
            return mb.mul(x=pooled, y=volume / divisor_override)
        grid = np.ones([1] * x.rank)
        for axis, count in enumerate(counts):
            shape = [1] * x.rank
            shape[x.rank - spatial + axis] = len(count)
            grid = grid * count.reshape(shape)
        return mb.mul(x=pooled, y=(volume / grid).astype(np.float32))

    return lower


def _max_pool(spatial: int) -> Lowering:
    def lower(
        mb: MilBuilder,
        x: Var,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil_mode: bool = False,
    ) -> Lowered:
        """The maxima, and their positions in the flattened image where somebody reads them."""
        kernel, stride, padding, dilation = _per_axis(
            spatial, kernel, stride or kernel, padding, dilation
        )
        positions_read = any(
            user.target is operator.getitem and user.args[1] == 1 and user.users
            for user in mb.node.users
        )
        if set(dilation) == {1} and not positions_read:
            if spatial == 3:
                return NotImplemented  # coremltools pads for ceil_mode, which MIL lacks there
            pads = [edge for edge in padding for _ in range(2)]
            return mb.max_pool(
                x=x,
                kernel_sizes=kernel,
                strides=stride,
                pad_type="custom",
                pad=pads,
                ceil_mode=ceil_mode,
            ), None
        sizes = [int(size) for size in x.shape[-spatial:]] if _known(x.shape[-spatial:]) else []
        if not sizes:
            return NotImplemented
        windows = _Windows(
            x.rank, sizes, kernel, stride, padding, dilation, mb.result[0].shape[-spatial:]
        )
        x = windows.padded(mb, x)
        if positions_read:
            return windows.maxima_and_positions(mb, x)
        return windows.maxima(mb, x), None

    return lower


class _Windows:
    """The taps of a sliding window, each as one strided slice of the padded image."""

    def __init__(
        self,
        rank: int,
        sizes: Sequence[int],
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        results: Sequence[int],
    ) -> None:
        self.first = rank - len(sizes)
        self.sizes, self.kernel, self.stride = sizes, kernel, stride
        self.padding, self.dilation, self.results = padding, dilation, results

    def padded(self, mb: MilBuilder, x: Var) -> Var:
        """Minus infinity all around, as far as the last window reaches."""
        pads = [0] * (2 * self.first)
        for axis, size in enumerate(self.sizes):
            reach = (self.results[axis] - 1) * self.stride[axis]
            reach += (self.kernel[axis] - 1) * self.dilation[axis] + 1
            pads += [self.padding[axis], max(0, reach - size - self.padding[axis])]
        if not any(pads):
            return x
        return mb.pad(x=x, pad=pads, mode="constant", constant_val=-float("inf"))

    def maxima(self, mb: MilBuilder, x: Var) -> Var:
        """One axis after the other: a window's maximum is the maximum of its rows' maxima."""
        for axis, width in enumerate(self.kernel):
            taps = [self._slice(mb, x, {axis: tap}) for tap in range(width)]
            x = taps[0]
            for tap in taps[1:]:
                x = mb.maximum(x=x, y=tap)
        return x

    def maxima_and_positions(self, mb: MilBuilder, x: Var) -> tuple[Var, Var]:
        """Of equal elements the first is the maximum, as in torch."""
        best = tap_number = None
        for number, taps in enumerate(itertools.product(*map(range, self.kernel))):
            value = self._slice(mb, x, dict(enumerate(taps)))
            if best is None:
                best, tap_number = value, mb.cast(x=mb.less(x=value, y=value), dtype="int32")
                continue
            wins = mb.greater(x=value, y=best)
            # Numbers rise, so the last to win has the largest.
            won = mb.mul(x=mb.cast(x=wins, dtype="int32"), y=np.int32(number))
            tap_number = mb.maximum(x=tap_number, y=won)
            best = mb.maximum(x=best, y=value)
        return best, self._positions(mb, tap_number)

    def _positions(self, mb: MilBuilder, tap_number: Var) -> Var:
        position: Any = None
        volume = 1
        for axis in reversed(range(len(self.sizes))):
            tap = mb.mod(
                x=mb.floor_div(x=tap_number, y=np.int32(np.prod(self.kernel[axis + 1 :]))),
                y=np.int32(self.kernel[axis]),
            )
            start = np.arange(self.results[axis]) * self.stride[axis] - self.padding[axis]
            shape = [1] * (self.first + len(self.sizes))
            shape[self.first + axis] = len(start)
            place = mb.add(
                x=mb.mul(x=tap, y=np.int32(self.dilation[axis] * volume)),
                y=(start * volume).astype(np.int32).reshape(shape),
            )
            position = place if position is None else mb.add(x=position, y=place)
            volume *= self.sizes[axis]
        return position

    def _slice(self, mb: MilBuilder, x: Var, taps: dict[int, int]) -> Var:
        """Element ``tap`` of every window along each given axis."""
        rank = self.first + len(self.sizes)
        begin, end, steps, whole = [0] * rank, [0] * rank, [1] * rank, [True] * rank
        for axis, tap in taps.items():
            place = self.first + axis
            begin[place] = tap * self.dilation[axis]
            end[place] = begin[place] + (self.results[axis] - 1) * self.stride[axis] + 1
            steps[place], whole[place] = self.stride[axis], False
        return mb.slice_by_index(
            x=x, begin=begin, end=end, stride=steps, begin_mask=whole, end_mask=whole
        )


TABLE = {
    aten.avg_pool1d.default: _avg_pool(1),
    aten.avg_pool2d.default: _avg_pool(2),
    aten.avg_pool3d.default: _avg_pool(3),
    aten.max_pool2d_with_indices.default: _max_pool(2),
    aten.max_pool3d_with_indices.default: _max_pool(3),
}
