"""Options that say what else a model is run on while its precision is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    import numpy as np

Command = TypeVar("Command", bound=Callable[..., object])


def calibration_options(function: Command) -> Command:
    """``--calibration`` and ``--input-range``, each given any number of times."""
    inputs = click.option(
        "--calibration",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        multiple=True,
        metavar="FILE.npz",
        help="Inputs by name to run on as well. May be repeated.",
    )
    ranges = click.option(
        "--input-range",
        multiple=True,
        metavar="NAME=LOW:HIGH",
        help="Between which numbers an input may lie. May be repeated.",
    )
    return inputs(ranges(function))


def stated_range(text: str) -> tuple[str, tuple[float, float]]:
    """``NAME=LOW:HIGH`` taken apart."""
    name, equals, ends = text.partition("=")
    low, colon, high = ends.partition(":")
    try:
        if not (name and equals and colon):
            raise ValueError
        return name, (float(low), float(high))
    except ValueError:
        raise click.UsageError(
            f"--input-range cannot be read: expected NAME=LOW:HIGH, found {text!r}."
        ) from None


def arrays_of_call(path: Path) -> Mapping[str, np.ndarray]:
    """The inputs in a file, by name."""
    from frontend.errors import InputError
    from lowering.support.array_file import READ_ERRORS, read_array_file

    try:
        found = read_array_file(path)
    except READ_ERRORS as error:
        raise InputError("cannot read the inputs", found=f"{path}: {error}") from error
    if not isinstance(found, dict):
        raise InputError(
            "cannot read the inputs",
            expected="a .npz file with an array for each input, by name",
            found=f"{path}: one array",
        )
    return found
