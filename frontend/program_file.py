"""Programs that ``torch.export.save`` wrote, loaded without running what the file says to run."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import IO

import torch
from torch._export.serde.serialize import deserialize_torch_artifact
from torch.export import ExportedProgram
from torch.export.pt2_archive._package import PT2ArchiveReader, load_pt2

from frontend.errors import ProgramFileError, first_line
from frontend.program_code import LOAD_ERRORS, code_in
from frontend.quiet import quiet_logger

# torch.export.save and load call their one program so.
_MODEL = "model"
_SHOWN = 5


def load_program(path: str | os.PathLike[str], *, trust: bool = False) -> ExportedProgram:
    """The program in a ``.pt2`` file.

    ``torch.export.load`` unpickles what it finds, which lets a file run any code. Here a file is
    read first: one that needs more than tensors, numbers and arithmetic on sizes is refused.

    Args:
        path: a file written by ``torch.export.save``.
        trust: load whatever the file asks for. For files of your own only.

    Raises:
        ProgramFileError: there is no such file, it is no program of this torch, or it asks for
            code.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ProgramFileError("there is no such file", found=str(path), hint="check the path")
    try:
        with path.open("rb") as file:
            if not trust:
                _refuse_code(path, file)
            file.seek(0)
            # Its warning about what was unpickled in full holds a format error, and prints that.
            with quiet_logger(deserialize_torch_artifact.__module__):
                return load_pt2(file).exported_programs[_MODEL]
    except LOAD_ERRORS as error:
        raise ProgramFileError(
            f"the file is no program of torch {torch.__version__}: {first_line(error)}",
            expected="a file written by torch.export.save",
            found=str(path),
            hint="export and save the model again, with this release of torch",
        ) from error


def _refuse_code(path: Path, file: IO[bytes]) -> None:
    found = code_in(PT2ArchiveReader(file))
    shown = list(itertools.islice(found, _SHOWN + 1))
    if not shown:
        return
    more = "; and more" if len(shown) > _SHOWN else ""
    raise ProgramFileError(
        "the file asks for code to be run when it is loaded; it was not loaded",
        expected="a program of tensors, numbers and arithmetic on sizes",
        found=f"{path}: {'; '.join(shown[:_SHOWN])}{more}",
        hint="if the file is your own, add --trust (in Python trust=True); else leave it alone",
    )
