"""Packages whose names are imported when they are first asked for.

``ane-passes --help`` and the completion of a shell look into every verb; they must not wait
seconds for torch and coremltools.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from frontend.deprecated import warn_renamed


def lazily(
    package: str, homes: Mapping[str, str], renamed: Mapping[str, str] | None = None
) -> tuple[list[str], Callable[[str], object], Callable[[], list[str]]]:
    """What a package needs to import its public names on first use.

    No public name may be that of a submodule: the import system would set it to the module.

    Args:
        package: its ``__name__``.
        homes: each name to the module that defines it.
        renamed: old names to new ones; an old name works and warns.

    Returns:
        ``__all__``, ``__getattr__`` and ``__dir__`` of the package.
    """
    old_names = dict(renamed or {})

    def get(name: str) -> Any:
        if name in old_names:
            warn_renamed(f"{package}.{name}", f"{package}.{old_names[name]}")
            name = old_names[name]
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(importlib.import_module(homes[name]), name)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return sorted(homes), get, names
