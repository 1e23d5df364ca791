"""Pictures of a report: what torch and the package make of each, beside each other."""

from __future__ import annotations

import base64
import colorsys
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lowering.reporting.tables import Column, Table
from lowering.verification.looks import Look, LookLine, PictureLook, paired

if TYPE_CHECKING:
    import PIL.Image

# Hues of neighbouring classes are this far apart: the golden ratio, so that none soon repeats.
_TURN = 0.618034
# How much of a mask's colour lies over the picture, of 255.
_VEIL = 150
# Pixels that differ are drawn in checks of these two colours, which no mask has.
_MARKS = ((255, 0, 255, 255), (0, 0, 0, 255))


@dataclass(frozen=True)
class DrawnBox:
    """A box in the units of its picture.

    Attributes:
        x, y: of its upper left corner.
        width, height: in pixels of the model.
        number: its place in the list, from 1.
        differs: whether the other side has none like it.
    """

    x: float
    y: float
    width: float
    height: float
    number: int
    differs: bool


@dataclass(frozen=True)
class DrawnSide:
    """What a page shows of one side.

    Attributes:
        title: whose side it is.
        width, height: of the picture in the model's pixels.
        picture: as a ``data:`` address.
        mask: drawn over it, likewise; ``""`` without one.
        boxes: drawn over it.
        lines: the list below.
        differs: whether anything is marked.
    """

    title: str
    width: int
    height: int
    picture: str
    mask: str
    boxes: tuple[DrawnBox, ...]
    lines: tuple[LookLine, ...]
    differs: bool


def drawn(looks: Sequence[PictureLook]) -> list[tuple[PictureLook, tuple[DrawnSide, DrawnSide]]]:
    """Each picture with both its sides, as a page shows them."""
    return [(look, (_side("torch", look.torch), _side("package", look.package))) for look in looks]


def colour(number: int) -> tuple[int, int, int]:
    """Of a class in masks and their legends: red, green and blue, 0 to 255."""
    red, green, blue = colorsys.hls_to_rgb(number * _TURN % 1.0, 0.5, 0.8)
    return round(red * 255), round(green * 255), round(blue * 255)


def pictures_table(looks: Sequence[PictureLook]) -> Table:
    """The same as text: a row for each place of each list."""
    rows = [
        (
            look.name,
            place,
            ours.shown() if ours else None,
            theirs.shown() if theirs else None,
            "differs" if any(side and side.differs for side in (ours, theirs)) else "",
        )
        for look in looks
        for place, (ours, theirs) in enumerate(paired(look), 1)
    ]
    columns = (
        Column("picture"),
        Column("place", "number"),
        Column("torch"),
        Column("package"),
        Column("verdict"),
    )
    note = "Measured in the interpreter: each file through PIL and torch, and through the package."
    return Table("pictures", "Pictures", note, columns, tuple(rows))


def _side(title: str, look: Look) -> DrawnSide:
    width, height = (1, 1) if look.picture is None else look.picture.size
    boxes = []
    for number, line in enumerate(look.lines, 1):
        if line.box is not None:
            x, y, wide, high = line.box
            left, top = (x - wide / 2) * width, (y - high / 2) * height
            boxes.append(DrawnBox(left, top, wide * width, high * height, number, line.differs))
    return DrawnSide(
        title=title,
        width=width,
        height=height,
        picture="" if look.picture is None else _address(look.picture),
        mask=_mask(look, marked=title == "package"),
        boxes=tuple(boxes),
        lines=look.lines,
        differs=look.differs,
    )


def _mask(look: Look, marked: bool) -> str:
    """The mask in colours that let the picture through; ``marked``, with what differs."""
    if look.mask is None:
        return ""
    from PIL import Image

    classes = look.mask.numpy()
    layer = np.zeros((*classes.shape, 4), np.uint8)
    for number in np.unique(classes).tolist():
        layer[classes == number] = (*colour(number), _VEIL)
    if marked and look.wrong is not None:
        down, across = np.indices(classes.shape)
        checks = np.array(_MARKS, np.uint8)[(down + across) % 2]
        wrong = look.wrong.numpy()
        layer[wrong] = checks[wrong]
    return _address(Image.fromarray(layer))


def _address(picture: PIL.Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
