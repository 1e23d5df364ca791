"""What ``ane-passes`` keeps in a package's user-defined metadata, which anybody can edit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from frontend.errors import first_line
from lowering.errors import PackageError
from lowering.package.kinds import SAVE_AGAIN


@contextmanager
def reading(key: str, what: str, expected: str) -> Iterator[None]:
    """Damage that the block meets in the entry ``key`` is one error that names it.

    Args:
        key: of the metadata.
        what: the entry in words, such as ``table of source lines``.
        expected: its form.

    Raises:
        PackageError: the entry is damaged.
    """
    try:
        yield
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise PackageError(
            f"the package's {what} is damaged",
            expected=expected,
            found=f"metadata {key!r}: {first_line(error)}",
            hint=f"{SAVE_AGAIN}; or remove {key!r} from the package's user-defined metadata",
        ) from error
