"""What ``ane-passes`` keeps in a package's user-defined metadata, which anybody can edit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from frontend.errors import first_line
from lowering.errors import PackageError
from lowering.package.kinds import SAVE_AGAIN

PREFIX = "com.ane-passes."


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


def differing(own: Mapping[str, str], default: Mapping[str, str], function: str) -> dict[str, str]:
    """What to keep beside ``default``, the metadata of a package, so that ``function`` has ``own``.

    An entry that only the package has is kept as an empty one.
    """
    keys = sorted(key for key in {*own, *default} if key.startswith(PREFIX))
    return {
        f"{key}@{function}": own.get(key, "") for key in keys if own.get(key) != default.get(key)
    }


def of_function(metadata: Mapping[str, str], function: str) -> dict[str, str]:
    """The metadata as it holds for one function, see :func:`differing`."""
    ending = f"@{function}"
    own = {
        key.removesuffix(ending): value
        for key, value in metadata.items()
        if key.startswith(PREFIX) and key.endswith(ending)
    }
    dropped = {key for key, value in own.items() if not value}
    return {key: value for key, value in {**metadata, **own}.items() if key not in dropped}
