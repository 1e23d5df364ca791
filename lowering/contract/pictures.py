"""From a picture in a file to the pixels that a model takes."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lowering.contract.errors import PictureError
from lowering.contract.image import BRIGHTEST, Image
from lowering.support.picture_file import read_picture

if TYPE_CHECKING:
    import PIL.Image

Picture: TypeAlias = "str | os.PathLike[str] | PIL.Image.Image"

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
# From 16 bits to 8: 65535 = 257 * 255.
_DEEP = 257
# Pillow's modes of 16 bits, and of 32 where they hold 16.
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")


def picture_files(given: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    """The pictures among ``given``, and those in folders among them, sorted.

    Raises:
        PictureError: one is not there, or a folder has none.
    """
    for item in given:
        path = Path(item)
        if not path.is_dir():
            yield path
            continue
        inside = [file for file in sorted(path.iterdir()) if file.suffix.lower() in _SUFFIXES]
        if not inside:
            raise PictureError("the folder holds no pictures", found=str(path))
        yield from inside


def prepared(image: Image, picture: Picture) -> PIL.Image.Image:
    """``picture`` as a package with this input takes it: turned, converted, resized, cropped.

    Args:
        image: the input.
        picture: a file, or an image of PIL.

    Returns:
        An image of mode RGB or L, of the input's size. The channels of BGR stand in it as RGB; the
        package reads them the other way round.

    Raises:
        PictureError: it cannot be read, or has numbers that are no pixels.
    """
    label = _label(picture)
    return _fitted(image, _converted(opened(picture), image.mode, label), label)


def pixels(image: Image, fitted: PIL.Image.Image) -> Tensor:
    """A prepared picture as (1, channels, height, width) float32, 0 to 255, in its layout."""
    values = torch.from_numpy(np.array(fitted, dtype=np.float32))
    if values.ndim == 2:
        return values[None, None]
    values = values.permute(2, 0, 1)
    return (values.flip(0) if image.layout == "BGR" else values)[None].contiguous()


def normalised(image: Image, values: Tensor) -> Tensor:
    """Pixel values as the model was trained on them: the plain formula, in float32."""
    mean, std = (torch.tensor(given).reshape(1, -1, 1, 1) for given in (image.mean, image.std))
    return (values.float() * image.scale - mean) / std


@functools.cache
def telling_picture(height: int, width: int) -> PIL.Image.Image:
    """A picture on which no two preprocessings agree: colours, edges and noise.

    It is larger than what a model takes, and wider, so that every resizing and every crop does
    something to it.
    A photo may be gray, or smooth, and then swapped channels or another filter do not show.
    """
    rows, columns = height * 3 // 2 + 1, width * 2 + 3
    down, across = np.mgrid[0:rows, 0:columns]
    noise = np.random.default_rng(0).integers(0, 64, (rows, columns, 3))
    ramps = np.stack([down / rows * 190, across / columns * 96, (across % 5 < 2) * 32.0], axis=-1)
    pillow = _pillow()
    found: PIL.Image.Image = pillow.fromarray((ramps + noise).astype(np.uint8))
    return found


def _label(picture: Picture) -> str:
    return str(picture) if isinstance(picture, str | os.PathLike) else "the given image"


def opened(picture: Picture) -> PIL.Image.Image:
    """``picture`` as it is looked at: turned as its EXIF says.

    Raises:
        PictureError: it cannot be read.
    """
    pillow = _pillow()
    from PIL import ImageOps

    if isinstance(picture, pillow.Image):
        return ImageOps.exif_transpose(picture)
    if not isinstance(picture, str | os.PathLike):
        raise PictureError(
            "this is no picture",
            expected="a file, or an image of PIL",
            found=type(picture).__name__,
        )
    path = Path(picture)
    if not path.is_file():
        raise PictureError("there is no such picture", found=str(path), hint="check the path")
    try:
        return ImageOps.exif_transpose(read_picture(path))
    except OSError as error:
        raise PictureError(
            "the picture cannot be read",
            expected="a PNG, JPEG or the like",
            found=f"{path}: {error}",
        ) from error


def _converted(picture: PIL.Image.Image, mode: str, label: str) -> PIL.Image.Image:
    if picture.mode in _DEEP_MODES:
        picture = _of_8_bits(picture, label)
    elif picture.mode == "F":
        raise PictureError(
            "a picture of floats has no agreed range of pixels",
            expected="8 or 16 bits a channel",
            found=label,
            hint="save it with 8 bits a channel",
        )
    if picture.mode in ("P", "PA"):
        # Straight to L or RGB some palettes lose their transparent entry's colour.
        picture = picture.convert("RGBA")
    if picture.mode == mode:
        return picture
    # By way of RGB: transparency is dropped and CMYK known there.
    return picture.convert("RGB").convert(mode)


def _of_8_bits(picture: PIL.Image.Image, label: str) -> PIL.Image.Image:
    values = np.asarray(picture).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > _DEEP * BRIGHTEST):
        raise PictureError(
            "a picture of 32 bits has no agreed range of pixels",
            expected="8 or 16 bits a channel",
            found=f"{label}: {values.min()} to {values.max()}",
        )
    found: PIL.Image.Image = _pillow().fromarray(
        ((values + _DEEP // 2) // _DEEP).clip(0, BRIGHTEST).astype(np.uint8)
    )
    return found


def _fitted(image: Image, picture: PIL.Image.Image, label: str) -> PIL.Image.Image:
    height, width = image.size
    if image.resize == "none":
        if picture.size != (width, height):
            raise PictureError(
                "the picture has another size than the model takes, and is not to be resized",
                expected=f"{width} x {height}",
                found=f"{label}: {picture.size[0]} x {picture.size[1]}",
                hint="say how it is resized: Image(resize=...)",
            )
        return picture
    if image.crop == "none":
        return _resized(image, picture, height, width)
    rows, columns = _sides(image, picture)
    picture = _resized(image, picture, rows, columns)
    if image.crop == "center":
        top, left = (rows - height) // 2, (columns - width) // 2
        return picture.crop((left, top, left + width, top + height))
    fill = (image.fill,) * len(picture.getbands())
    canvas: PIL.Image.Image = _pillow().new(picture.mode, (width, height), fill)
    canvas.paste(picture, ((width - columns) // 2, (height - rows) // 2))
    return canvas


def _sides(image: Image, picture: PIL.Image.Image) -> tuple[int, int]:
    """Height and width of the resized picture before it is cut or filled up."""
    (height, width), (columns, rows) = image.size, picture.size
    if image.crop == "pad":
        factor = min(height / rows, width / columns)
        return max(1, round(rows * factor)), max(1, round(columns * factor))
    if image.edge is None:
        if height * columns >= width * rows:
            return height, max(width, columns * height // rows)
        return max(height, rows * width // columns), width
    if rows <= columns:
        return image.edge, image.edge * columns // rows
    return image.edge * rows // columns, image.edge


def _resized(image: Image, picture: PIL.Image.Image, rows: int, columns: int) -> PIL.Image.Image:
    if picture.size == (columns, rows):
        return picture
    pillow = _pillow()
    if image.antialias:
        how = getattr(pillow.Resampling, image.resize.upper())
        smooth: PIL.Image.Image = picture.resize((columns, rows), how)
        return smooth
    values = torch.from_numpy(np.array(picture, dtype=np.float32))
    values = values[None, None] if values.ndim == 2 else values.permute(2, 0, 1)[None]
    sharp = F.interpolate(
        values,
        (rows, columns),
        mode=image.resize,
        align_corners=None if image.resize == "nearest" else False,
    )
    array = sharp[0].round().clamp(0, BRIGHTEST).to(torch.uint8).permute(1, 2, 0).numpy()
    found: PIL.Image.Image = pillow.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    return found


def _pillow() -> ModuleType:
    try:
        import PIL.Image
    except ImportError as error:
        raise PictureError(
            "pictures need Pillow", hint='pip install "ane-passes[pictures]"'
        ) from error
    return PIL.Image
