"""``--inputs``: the model's inputs from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lowering.cli.common import Command


def inputs_option(function: Command) -> Command:
    """``--inputs``: a file for :func:`read_arrays`."""
    return click.option(
        "--inputs",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="A .npz with arrays named after the model's inputs; others are the model's own.",
    )(function)


def read_arrays(path: Path) -> dict[str, Any]:
    """The arrays of a ``.npz`` file by name.

    Raises:
        VerificationError: it is none.
    """
    from lowering.support.array_file import READ_ERRORS, read_array_file
    from lowering.verification import VerificationError

    try:
        found = read_array_file(path)
    except READ_ERRORS as error:
        raise VerificationError(
            "cannot read the inputs",
            expected="a .npz file with arrays of numbers",
            found=f"{path}: {error}",
        ) from error
    if not isinstance(found, dict):
        raise VerificationError(
            "this is one array without a name", expected="a .npz file", found=str(path)
        )
    return found
