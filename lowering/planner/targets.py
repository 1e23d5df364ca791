"""Chips by name, and the dispatcher platform each belongs to."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any

from frontend.errors import AnePassesError


class UnknownChipError(AnePassesError):
    """The planner knows no such chip."""


def load_data(name: str) -> dict[str, Any]:
    """A JSON file of ``planner/data``."""
    text = resources.files("lowering.planner").joinpath("data", name).read_text("utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


@functools.cache
def chips() -> dict[str, dict[str, Any]]:
    """What is known of each chip: ``chips.json``."""
    known: dict[str, dict[str, Any]] = load_data("chips.json")["chips"]
    return known


@functools.cache
def dispatcher() -> dict[str, Any]:
    """What is known of each platform's dispatcher: ``dispatcher.json``."""
    return load_data("dispatcher.json")


def chip_names() -> tuple[str, ...]:
    """The chips that a plan can be made for."""
    return tuple(chips())


@functools.cache
def chip_of(target: str) -> str | None:
    """The chip that ``target`` names, in any case; ``None`` when it names no chip."""
    wanted = _normal(target)
    return next((name for name in chips() if name.casefold() == wanted), None)


@functools.cache
def platform_of(target: str) -> str:
    """The compiler's name of ``target``'s ANE, such as ``H16G`` for ``"M4"``.

    Args:
        target: a chip (``"M4 Pro"``) or a platform (``"H16G"``, ``"H16G (M4)"``), in any case.

    Raises:
        UnknownChipError: no such chip or platform.
    """
    chip = chip_of(target)
    if chip is not None:
        return str(chips()[chip]["platform"])
    wanted = _normal(target)
    for platform in dispatcher()["platforms"]:
        if platform.casefold() == wanted:
            return str(platform)
    raise UnknownChipError(
        f"{target!r} is not a chip the planner knows",
        expected=", ".join(chip_names()),
        hint="for a chip that is not listed there are no data to predict from",
    )


def _normal(target: str) -> str:
    return " ".join(str(target).partition("(")[0].split()).casefold()
