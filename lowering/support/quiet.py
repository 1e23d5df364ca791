"""Keeps coremltools' log lines and progress bars out of the user's terminal."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from frontend.quiet import quiet_logger


@contextmanager
def quiet_coremltools(*, progress: bool = False) -> Iterator[None]:
    """Silence coremltools below ERROR while the block runs; everything is put back after it.

    Args:
        progress: leave coremltools' progress bars on.
    """
    from unittest import mock  # it brings asyncio, and this module is imported by every command

    # Errors are raised as exceptions as well, and we word those ourselves.
    with quiet_logger("coremltools", logging.CRITICAL), warnings.catch_warnings():
        # The first import warns about versions it has not been tested with.
        from coremltools.converters.mil.frontend.torch import ops
        from coremltools.converters.mil.mil.passes import pass_pipeline

        warnings.filterwarnings("ignore", module=r"coremltools\.")
        if progress:
            yield
            return
        silent = functools.partial(ops._tqdm, disable=True)
        with (
            mock.patch.object(ops, "_tqdm", silent),
            mock.patch.object(pass_pipeline, "tqdm", silent),
        ):
            yield


def hide_import_warnings() -> None:
    """Hides what coremltools logs when it is imported, and nothing else.

    That it has not been tested with this torch, which our tests make up for, and that it has no
    Core ML on this system, which calls that need it say themselves.
    """
    logging.getLogger("coremltools").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    untested = "has not been tested with coremltools" in text
    return not untested and not text.startswith("Failed to load _ML")


def quiet_third_parties() -> None:
    """For programs of our own: silences what others log about this platform, for good.

    Errors are raised all the same.
    """
    for name in ("coremltools", "torch._export", "torch.export", "torch._subclasses"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
