"""Packages whose names are imported when they are first asked for.

``ane-passes --help`` and the completion of a shell look into every verb; they must not wait
seconds for torch and coremltools.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any


class _LazyPackage(ModuleType):
    """A package that looks its public names up in their modules.

    A name may be that of a submodule too, as ``capture`` in ``frontend.capture``: the import
    system sets it to the submodule, so ``__getattr__`` would never be asked.
    """

    _homes: Mapping[str, str]

    def __getattribute__(self, name: str) -> Any:
        home = super().__getattribute__("_homes").get(name)
        if home is None:
            return super().__getattribute__(name)
        return getattr(importlib.import_module(home), name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._homes})


def lazily(package: str, homes: Mapping[str, str]) -> list[str]:
    """Makes ``package`` import its public names on first use.

    Args:
        package: its ``__name__``, called from its ``__init__``.
        homes: each name to the module that defines it.

    Returns:
        The names in order, for ``__all__``.
    """
    module = sys.modules[package]
    module.__dict__["_homes"] = dict(homes)
    module.__class__ = _LazyPackage
    return sorted(homes)
