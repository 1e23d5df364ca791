"""Slices, by begin and end or by size."""

from __future__ import annotations

from torch import Tensor

from lowering.reference.binding import Bools, Ints, Semantics


def slice_by_index(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    """``x[begin:end:stride]`` per dimension, as numpy slices.

    A masked begin or end is open. A dimension in ``squeeze_mask`` is indexed at its begin and
    dropped.
    """
    slices, flips, squeezed = _slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    y = x[slices]
    if flips:
        y = y.flip(flips)
    return y.squeeze(squeezed) if squeezed else y


def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    """``x`` with what ``slice_by_index`` would take replaced by ``update``."""
    masks = (begin_mask, end_mask, squeeze_mask)
    return write_slice(x.clone(), update, begin, end, stride, *masks)


def write_slice(
    x: Tensor,
    update: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    """As :func:`slice_update`, in ``x`` itself."""
    slices, flips, _ = _slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    target = x[slices]
    update = update.reshape(target.shape)
    target.copy_(update.flip(flips) if flips else update)
    return x


def slice_by_size(x: Tensor, begin: Ints, size: Ints) -> Tensor:
    """``size`` elements from ``begin`` per dimension; a size of -1 takes the rest."""
    slices = []
    for first, count, extent in zip(begin, size, x.shape, strict=True):
        first += extent if first < 0 else 0
        slices.append(slice(first, extent if count == -1 else first + count))
    return x[tuple(slices)]


def _slices(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None,
    begin_mask: Bools | None,
    end_mask: Bools | None,
    squeeze_mask: Bools | None,
) -> tuple[tuple[slice, ...], list[int], tuple[int, ...]]:
    """Ascending slices, the dimensions to flip after them, and those to drop."""
    no = (False,) * x.ndim
    begin_mask, end_mask, squeeze_mask = begin_mask or no, end_mask or no, squeeze_mask or no
    stride = stride or (1,) * x.ndim
    slices, flips = [], []
    for dim, extent in enumerate(x.shape):
        first = None if begin_mask[dim] else begin[dim]
        if squeeze_mask[dim]:
            index = first or 0
            index += extent if index < 0 else 0
            slices.append(slice(index, index + 1))
            continue
        last = None if end_mask[dim] else end[dim]
        picked = range(*slice(first, last, stride[dim]).indices(extent))
        if stride[dim] < 0:
            picked = picked[::-1]
            flips.append(dim)
        slices.append(slice(picked.start, max(picked.start, picked.stop), picked.step))
    squeezed = tuple(dim for dim in range(x.ndim) if squeeze_mask[dim])
    return tuple(slices), flips, squeezed


TABLE: dict[str, Semantics] = {
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "slice_update": slice_update,
}
