"""``torch.arange`` from a place that depends on data, while one step runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def moving_ranges(tokens: int) -> Iterator[None]:
    """Makes ``torch.arange(seen, seen + tokens)`` a sum, where ``seen`` is a tensor.

    So models number the tokens of a step, behind those in the cache. A range between two numbers
    that are data has no size before the program runs; that of a step is always its tokens. It is
    torch's own function that is put aside, since that refuses a tensor of one element before any
    mode sees the call.

    Args:
        tokens: of the step.
    """
    own: Callable[..., Tensor] = torch.arange

    def arange(*args: object, **kwargs: object) -> Tensor:
        start = args[0] if len(args) > 1 else kwargs.get("start")
        if not isinstance(start, Tensor):
            return own(*args, **kwargs)
        rows = own(tokens, device=kwargs.get("device")) + start
        dtype = kwargs.get("dtype")
        return rows.to(dtype if isinstance(dtype, torch.dtype) else torch.int64)

    torch.arange = arange
    try:
        yield
    finally:
        torch.arange = own
