"""Ops that rearrange elements: reshapes, permutations, blocks and windows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lowering.reference.binding import Bools, Ints, Semantics
from lowering.reference.errors import ExecutionError


def reshape(x: Tensor, shape: Ints) -> Tensor:
    """``x`` in ``shape``; -1 is inferred, 0 takes the size of ``x``, aligned at the right."""
    sizes = list(shape)
    for index, size in enumerate(sizes):
        if size == 0:
            source = x.ndim - len(sizes) + index
            sizes[index] = x.shape[source] if source >= 0 else 1
    return x.reshape(sizes)


def reshape_like(
    x: Tensor, ref_tensors: list[Tensor], begins: Ints, ends: Ints, end_masks: Bools
) -> Tensor:
    """``x`` in the shape joined from slices of the shapes of ``ref_tensors``."""
    sizes: list[int] = []
    for reference, begin, end, masked in zip(ref_tensors, begins, ends, end_masks, strict=True):
        sizes += reference.shape[begin:] if masked else reference.shape[begin:end]
    return x.reshape(sizes)


def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    """``x`` as a matrix, cut before ``axis``."""
    return x.reshape(x.shape[:axis].numel(), x.shape[axis:].numel())


def expand_dims(x: Tensor, axes: Ints) -> Tensor:
    """``x`` with sizes of 1 at ``axes`` of the result."""
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    """``x`` without ``axes`` of size 1, all of them by default."""
    return x.squeeze() if axes is None else x.squeeze(axes)


def transpose(x: Tensor, perm: Ints) -> Tensor:
    """Dimension ``i`` of the result is dimension ``perm[i]`` of ``x``."""
    return x.permute(perm)


def reverse(x: Tensor, axes: Ints | None = None) -> Tensor:
    """``x`` flipped along ``axes``, all of them by default."""
    return x.flip(tuple(range(x.ndim)) if axes is None else axes)


def reverse_sequence(x: Tensor, lengths: Ints, seq_axis: int = 0, batch_axis: int = 0) -> Tensor:
    """``x`` with the first ``lengths[b]`` elements of sequence ``b`` flipped."""
    y = x.movedim((batch_axis, seq_axis), (0, 1)).clone()
    for index, length in enumerate(lengths):
        y[index, :length] = y[index, :length].flip(0)
    return y.movedim((0, 1), (batch_axis, seq_axis))


def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """Channel ``(i, j, c)`` goes to channel ``c``, pixel ``(i, j)`` of a block: (B, C, H, W)."""
    b, c, h, w = x.shape
    inner = c // block_size**2
    y = x.reshape(b, block_size, block_size, inner, h, w).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(b, inner, h * block_size, w * block_size)


def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    """The inverse of ``depth_to_space``."""
    b, c, h, w = x.shape
    rows, columns = h // block_size, w // block_size
    y = x.reshape(b, c, rows, block_size, columns, block_size).permute(0, 3, 5, 1, 2, 4)
    return y.reshape(b, c * block_size**2, rows, columns)


def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """Channel ``(c, i, j)`` goes to channel ``c``, pixel ``(i, j)`` of a block: (B, C, H, W)."""
    return F.pixel_shuffle(x, upscale_factor)


def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    """The inverse of ``pixel_shuffle``."""
    return F.pixel_unshuffle(x, downscale_factor)


def space_to_batch(x: Tensor, block_shape: Ints, paddings: Ints) -> Tensor:
    """``x (B, C, ...)``, padded, cut into blocks whose elements become the outer batch."""
    pads = list(zip(paddings[0::2], paddings[1::2], strict=True))
    x = F.pad(x, [item for pair in reversed(pads) for item in pair])
    batch, channels, *spatial = x.shape
    sizes = [batch, channels]
    for size, block in zip(spatial, block_shape, strict=True):
        sizes += [size // block, block]
    rank = len(spatial)
    inner = [2 + 2 * i for i in range(rank)]
    y = x.reshape(sizes).permute(*[3 + 2 * i for i in range(rank)], 0, 1, *inner)
    return y.reshape(-1, channels, *[s // b for s, b in zip(spatial, block_shape, strict=True)])


def batch_to_space(x: Tensor, block_shape: Ints, crops: Ints) -> Tensor:
    """The inverse of ``space_to_batch``; ``crops`` undoes the padding."""
    _, channels, *spatial = x.shape
    rank = len(spatial)
    y = x.reshape(*block_shape, -1, channels, *spatial)
    order = [rank, rank + 1]
    for index in range(rank):
        order += [rank + 2 + index, index]
    y = y.permute(order)
    y = y.reshape(y.shape[0], channels, *[s * b for s, b in zip(spatial, block_shape, strict=True)])
    pairs = list(zip(crops[0::2], crops[1::2], strict=True))
    return F.pad(y, [-item for pair in reversed(pairs) for item in pair])


def sliding_windows(x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    """Windows of ``size`` along ``axis``; the elements of a window follow that axis."""
    axis %= x.ndim
    return x.unfold(axis, size, stride).movedim(-1, axis + 1)


def concat(values: list[Tensor], axis: int, interleave: bool = False) -> Tensor:
    """``values`` one after the other along ``axis``, or element by element if interleaved."""
    if values[0].ndim == 0:
        return torch.stack(values)
    if interleave:
        axis %= values[0].ndim
        return torch.stack(values, axis + 1).flatten(axis, axis + 1)
    return torch.cat(values, axis)


def stack(values: list[Tensor], axis: int) -> Tensor:
    """``values`` along a new ``axis``."""
    return torch.stack(values, axis)


def split(
    x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Ints | None = None
) -> tuple[Tensor, ...]:
    """``x`` cut along ``axis`` into given sizes, or into equal parts."""
    if split_sizes is None:
        assert num_splits is not None
        return x.split(x.shape[axis] // num_splits, axis)
    return x.split(list(split_sizes), axis)


def tile(x: Tensor, reps: Ints) -> Tensor:
    """``x`` repeated ``reps[i]`` times along dimension ``i``."""
    if min(reps, default=1) < 1:
        raise ExecutionError(
            "a tile repeats an axis less than once",
            op="tile",
            expected="reps of 1 or more, as Core ML asks for",
            found=str(list(reps)),
            hint="take such an axis away with slice_by_index, or leave the tile out",
        )
    return x.repeat(reps)


def shape(x: Tensor) -> Tensor:
    """Sizes of ``x``."""
    return torch.tensor(x.shape, dtype=torch.int32)


def crop(x: Tensor, crop_height: Ints, crop_width: Ints) -> Tensor:
    """``x (..., H, W)`` without so many rows and columns at either end."""
    (top, bottom), (left, right) = crop_height, crop_width
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


TABLE: dict[str, Semantics] = {
    "batch_to_space": batch_to_space,
    "concat": concat,
    "crop": crop,
    "depth_to_space": depth_to_space,
    "expand_dims": expand_dims,
    "flatten2d": flatten2d,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "reshape": reshape,
    "reshape_like": reshape_like,
    "reverse": reverse,
    "reverse_sequence": reverse_sequence,
    "shape": shape,
    "sliding_windows": sliding_windows,
    "space_to_batch": space_to_batch,
    "space_to_depth": space_to_depth,
    "split": split,
    "squeeze": squeeze,
    "stack": stack,
    "tile": tile,
    "transpose": transpose,
}
