"""The releases of torch that this package was tried with."""

from __future__ import annotations

import functools
import warnings

import torch

# Each has a snapshot of what it takes apart: ``benchmarks.torch_release``.
TRIED = ("2.13", "2.14", "2.15")


class UntriedReleaseWarning(UserWarning):
    """The installed torch is newer than any that was tried."""


@functools.cache
def warn_of_untried(version: str = torch.__version__) -> None:
    """Says once that ``version`` is newer than what was tried; nothing for the others."""
    if _numbers(version) > _numbers(TRIED[-1]):
        warnings.warn(
            f"torch {version} is newer than {TRIED[-1]}, the newest that ane-passes was tried "
            "with: hold packages against their originals with verify",
            UntriedReleaseWarning,
            stacklevel=2,
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2])
