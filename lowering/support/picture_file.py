"""Reading a picture's file, whatever is wrong with it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import PIL.Image


def read_picture(path: Path) -> PIL.Image.Image:
    """The picture in a file, all of it, with what its EXIF says.

    Raises:
        OSError: there is none, it is damaged, or larger than Pillow takes for a picture.
        ImportError: Pillow is missing.
    """
    from PIL import Image

    try:
        with Image.open(path) as opened:
            opened.load()
            opened.getexif()  # kept, and read while the file is open
            return opened
    # Pillow's decoders raise these for what is broken within a file.
    except (SyntaxError, ValueError, EOFError, struct.error) as error:
        raise OSError(f"the file is damaged: {error}") from error
    except Image.DecompressionBombError as error:
        raise OSError(f"{error}; make it smaller") from error
