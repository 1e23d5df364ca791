"""``--with-pass`` on the command line: your own passes."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from lowering.cli.common import Command
from lowering.cli.load_model import load_module
from lowering.errors import ModelLoadError

if TYPE_CHECKING:
    from passes.base import Pass


def with_pass_option(function: Command) -> Command:
    """``--with-pass``: passes to run besides, or that a package or a file names."""
    return click.option(
        "--with-pass",
        "own_passes",
        multiple=True,
        metavar="WHERE",
        help="A pass of your own: file.py:Name or module:Name, a class derived from passes.Pass, a "
        "value of it or a list; file.py alone for all that it defines. It runs where it may first, "
        "by its runs_after and runs_before. May be repeated.",
    )(function)


def load_passes(texts: Sequence[str]) -> tuple[Pass, ...]:
    """The passes that ``--with-pass`` names, in order.

    Raises:
        ModelLoadError: a text names none, or a class whose options have no defaults.
    """
    return tuple(_made(entry, text) for text in texts for entry in _named(text))


def known_passes(texts: Sequence[str]) -> tuple[type[Pass], ...]:
    """Their classes, for texts that name them.

    Raises:
        ModelLoadError: a text names none.
    """
    found = (entry for text in texts for entry in _named(text))
    return tuple(entry if isinstance(entry, type) else type(entry) for entry in found)


def _named(text: str) -> list[Any]:
    """Classes and values."""
    location, _, name = text.partition(":")
    module = load_module(location)
    if name:
        found = getattr(module, name, None)
        entries = list(found) if isinstance(found, list | tuple) else [found]
    else:
        entries = [value for value in vars(module).values() if _is_defined_in(module, value)]
    if not entries or not all(_is_pass(entry) for entry in entries):
        raise ModelLoadError(
            "there is no pass",
            expected="a class derived from passes.Pass, a value of it, or a list of such",
            found=text,
        )
    return entries


def _made(entry: Any, text: str) -> Pass:
    from passes.base import Pass

    try:
        made = entry() if isinstance(entry, type) else entry
    except TypeError as error:
        raise ModelLoadError(
            f"{entry.__name__} cannot be made without options: {error}",
            expected="defaults for all fields and an apply method, or the name of a value",
            found=text,
        ) from error
    assert isinstance(made, Pass)
    return made


def _is_pass(value: object) -> bool:
    from passes.base import Pass

    return isinstance(value, Pass) or (isinstance(value, type) and issubclass(value, Pass))


def _is_defined_in(module: ModuleType, value: object) -> bool:
    return _is_pass(value) and isinstance(value, type) and value.__module__ == module.__name__
