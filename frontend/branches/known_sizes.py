"""Results whose size follows from values, where the values are constants: the size is known.

``torch.export`` gives them a size of their own (``u0``), which nothing can fold later. While it
records, ``repeat_interleave`` is told its ``output_size``, ``nonzero`` and masks used as an index
are constants, and widths of ``pad`` and sizes of ``interpolate`` are numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import _disable_current_modes

from frontend.branches.ask import wrapped
from frontend.branches.trace import Trace


@contextmanager
def knowing_sizes(trace: Trace) -> Iterator[None]:
    """Inside, the operators above use the values of constants."""
    functions = (
        (Tensor, "repeat_interleave", _repeat_interleave),
        (torch, "repeat_interleave", _repeat_interleave),
        (Tensor, "nonzero", _nonzero),
        (torch, "nonzero", _nonzero),
        (Tensor, "__getitem__", _getitem),
        (functional, "pad", _pad),
        (functional, "interpolate", _interpolate),
    )
    with wrapped(functions, trace):
        yield


def _known(trace: Trace, value: object) -> Tensor | None:
    if not isinstance(value, Tensor) or not trace.is_recording():
        return None
    return trace.known_value(value)


def _constant(value: Tensor) -> Tensor:
    """``value`` in the graph that is being recorded, as a literal of the model would be."""
    with _disable_current_modes():
        numbers = value.tolist()
    return torch.tensor(numbers, dtype=value.dtype).reshape(value.shape)


def _repeat_interleave(original: Callable[..., Any], trace: Trace) -> Callable[..., Any]:
    def repeat_interleave(
        input: Tensor, repeats: object = None, dim: int | None = None, *, output_size: object = None
    ) -> Tensor:
        counts = _known(trace, input if repeats is None else repeats)
        if counts is not None and output_size is None:
            with _disable_current_modes():
                total = int(counts.sum())
            if repeats is not None and counts.numel() == 1:
                total = total * (input.numel() if dim is None else input.shape[dim])
            output_size = total
        if repeats is None:
            return original(input, output_size=output_size)
        return original(input, repeats, dim, output_size=output_size)

    return repeat_interleave


def _nonzero(original: Callable[..., Any], trace: Trace) -> Callable[..., Any]:
    def nonzero(input: Tensor, *args: object, **kwargs: object) -> object:
        known = _known(trace, input)
        if known is None:
            return original(input, *args, **kwargs)
        with _disable_current_modes():
            places = original(known, *args, **kwargs)
        return tuple(map(_constant, places)) if isinstance(places, tuple) else _constant(places)

    return nonzero


def _getitem(original: Callable[..., Any], trace: Trace) -> Callable[..., Any]:
    """``x[mask]`` with a constant mask is ``x[positions]``."""

    def getitem(input: Tensor, index: object) -> Tensor:
        parts = index if isinstance(index, tuple) else (index,)
        masks = {place: _mask(trace, part) for place, part in enumerate(parts)}
        if all(mask is None for mask in masks.values()):
            return original(input, index)
        spelled: list[Any] = []
        for place, part in enumerate(parts):
            mask = masks[place]
            if mask is None:
                spelled.append(part)
                continue
            with _disable_current_modes():
                positions = mask.nonzero(as_tuple=True)
            spelled += map(_constant, positions)
        return original(input, tuple(spelled))

    return getitem


def _pad(original: Callable[..., Any], trace: Trace) -> Callable[..., Any]:
    """Widths may be tensors; torch's own reading of them would not ask us."""

    def pad(input: Tensor, pad: object, *args: object, **kwargs: object) -> Tensor:
        return original(input, _numbers(trace, pad), *args, **kwargs)

    return pad


def _interpolate(original: Callable[..., Any], trace: Trace) -> Callable[..., Any]:
    """Sizes and scales may be tensors, as in ``pad``."""

    def interpolate(
        input: Tensor,
        size: object = None,
        scale_factor: object = None,
        *args: object,
        **kwargs: object,
    ) -> Tensor:
        wanted = _numbers(trace, size), _numbers(trace, scale_factor)
        return original(input, *wanted, *args, **kwargs)

    return interpolate


def _numbers(trace: Trace, value: object) -> object:
    """``value`` with numbers in the place of tensors of one element whose values are constants."""
    if isinstance(value, tuple | list):
        return [_numbers(trace, part) for part in value]
    known = _known(trace, value)
    if known is None or known.numel() != 1:
        return value
    with _disable_current_modes():
        return known.item()


def _mask(trace: Trace, part: object) -> Tensor | None:
    """The value of an index that is a constant mask of at least one axis, else None."""
    if isinstance(part, list) and part and all(isinstance(entry, bool) for entry in part):
        with _disable_current_modes():
            return torch.tensor(part)
    if not isinstance(part, Tensor) or part.dtype is not torch.bool or not part.ndim:
        return None
    return _known(trace, part)
