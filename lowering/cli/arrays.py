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
        help="A .npz with arrays named after the model's inputs; others are the target's own.",
    )(function)


def read_arrays(path: Path) -> dict[str, Any]:
    """The arrays of a ``.npz`` file by name.

    Raises:
        VerificationError: it is none.
    """
    import zipfile

    import numpy as np

    from lowering.verification import VerificationError

    try:
        with np.load(path, allow_pickle=False) as archive:
            if isinstance(archive, np.ndarray):
                raise VerificationError("this is one array without a name", expected="a .npz file")
            return dict(archive)
    except (ValueError, OSError, zipfile.BadZipFile, AttributeError) as error:
        raise VerificationError(
            "the inputs cannot be read", expected="a .npz file", found=f"{path}: {error}"
        ) from error
