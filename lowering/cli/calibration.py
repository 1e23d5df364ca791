"""Options that say what else a model is run on while its precision is judged."""

from __future__ import annotations

from pathlib import Path

import click

from lowering.cli.common import Command


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
