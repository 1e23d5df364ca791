"""Old names that still work for one release, each with a warning that says the new one."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
Result = TypeVar("Result")
Dataclass = TypeVar("Dataclass")


def warn_renamed(old: str, new: str, *, stacklevel: int = 3) -> None:
    """Says at the caller's line that ``old`` is called ``new`` now."""
    warnings.warn(
        f"{old} is called {new} now; the old name goes with the next release",
        FutureWarning,
        stacklevel=stacklevel,
    )


def renamed_arguments(**new_names: str) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """Accepts old keyword arguments of a function beside their new names.

    Args:
        new_names: each old keyword to the parameter that it is now.

    Raises:
        TypeError: by the function, where both names of a parameter are given.
    """

    def decorate(function: Callable[P, Result]) -> Callable[P, Result]:
        called = function.__qualname__.rpartition("<locals>.")[2]

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Result:
            for old, new in new_names.items():
                if old in kwargs:
                    if new in kwargs:
                        raise TypeError(f"{called}() got both {old!r} and {new!r}")
                    warn_renamed(f"the argument {old!r} of {called}()", repr(new))
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def renamed_fields(**new_names: str) -> Callable[[type[Dataclass]], type[Dataclass]]:
    """:func:`renamed_arguments` of the fields of a dataclass; stands above ``@dataclass``."""

    def decorate(kind: type[Dataclass]) -> type[Dataclass]:
        setattr(kind, "__init__", renamed_arguments(**new_names)(kind.__init__))  # noqa: B010
        return kind

    return decorate
