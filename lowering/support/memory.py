"""Whether a tensor can be held by this machine at all."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from lowering.errors import PackageError


def check_fits(shape: Sequence[int], bits: int, what: str) -> None:
    """That a tensor is no larger than the machine's memory; unknown sizes count as one.

    Args:
        shape: sizes, -1 where unknown.
        bits: of an element.
        what: how the message names it, such as ``input 'x'``.

    Raises:
        PackageError: it is larger.
    """
    size = math.prod(max(item, 1) for item in shape) * bits / 8
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > have:
        raise PackageError(
            f"{what} is larger than the memory of this machine",
            expected=f"at most {have / 1e9:,.0f} GB",
            found=f"{size / 1e9:,.0f} GB, of shape {tuple(shape)}",
            hint="convert the model with smaller sizes, or copy the package again if they are not "
            "the model's",
        )
