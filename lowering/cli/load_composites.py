"""``--composites`` on the command line: where lowerings of custom operators come from."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowering.cli.load_model import load_module
from lowering.errors import ModelLoadError

if TYPE_CHECKING:
    from lowering.conversion.composites import Composite


def load_composites(text: str) -> tuple[Composite, ...]:
    """The composites that ``text`` names: all of a module, one of them, or a list in it.

    Raises:
        ModelLoadError: it names none.
    """
    from lowering.conversion.composites import Composite

    location, _, name = text.partition(":")
    module = load_module(location)
    if not name:
        found: Any = [value for value in vars(module).values() if isinstance(value, Composite)]
    else:
        found = getattr(module, name, ())
        found = list(found) if isinstance(found, list | tuple) else [found]
    if not found or not all(isinstance(entry, Composite) for entry in found):
        raise ModelLoadError(
            "there is no composite",
            expected="what the @composite decorator returns, or a list of such",
            found=text,
        )
    return tuple(found)


def composites_digest(composites: Sequence[Composite]) -> str:
    """Hexadecimal SHA-256 of the operators and of the files that define their lowerings."""
    digest = hashlib.sha256()
    for composite in composites:
        digest.update(str(composite.op).encode())
        digest.update(Path(inspect.getfile(composite.lower)).read_bytes())
    return digest.hexdigest()
