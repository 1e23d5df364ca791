"""What goes wrong with the temporary folder that coremltools writes packages in."""

from __future__ import annotations

import errno
import shutil
import tempfile

from frontend.errors import first_line
from lowering.errors import SaveError

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
# The writer of weights says no more than this, whatever happened (*seen* in coremltools 9.0).
_WRITER = "FileWriter"


def not_written(error: Exception) -> SaveError | None:
    """The error to raise for ``error`` if it comes from a folder that is full or read-only."""
    is_disk = isinstance(error, OSError) and error.errno in _DISK
    if not is_disk and _WRITER not in str(error):
        return None
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    return SaveError(
        "coremltools could not write the package's parts to the temporary folder",
        expected="a folder with room for twice the weights",
        found=f"{folder}, {free / 1e6:,.1f} MB free ({first_line(error)})",
        hint="make room there, or set TMPDIR to another folder",
    )
