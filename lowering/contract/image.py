"""What a model takes where it takes a picture: size, channels, numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias, get_args

from lowering.contract.errors import ContractError

Layout: TypeAlias = Literal["RGB", "BGR", "GRAY"]
Resize: TypeAlias = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "none"]
Crop: TypeAlias = Literal["none", "center", "pad"]

# Pixels are whole numbers from 0 to this.
BRIGHTEST = 255
_CHANNELS: dict[Layout, int] = {"RGB": 3, "BGR": 3, "GRAY": 1}
# What torch has without antialiasing; PIL always smooths.
_UNSMOOTHED: tuple[Resize, ...] = ("nearest", "bilinear", "bicubic")


@dataclass(frozen=True)
class Image:
    """How a picture becomes an input (1, channels, height, width) of floats.

    A picture is turned as its EXIF data says, brought to ``layout``, resized and cropped; then each
    channel of pixel values is ``(pixel * scale - mean) / std``. The last step is part of the
    package, exactly; a package takes pictures of ``size``.

    Transparency is dropped, as PIL's ``convert("RGB")`` does; pictures of 16 bits are brought to 8.

    Attributes:
        size: height and width that the model takes, in pixels.
        mean: of each channel in the order of ``layout``, or one number for all.
        std: likewise; by what the difference is divided.
        layout: order of the channels that the model was trained on.
        resize: how pixels are computed; with ``none`` pictures must have ``size`` already.
        crop: ``none`` stretches a picture to ``size``; ``center`` resizes it until ``edge`` is its
            shorter side, and cuts out the middle; ``pad`` resizes it until it fits into ``size``,
            and fills the rest around it with ``fill``.
        edge: of ``center``; by default the smallest that covers ``size``.
        fill: pixel value, 0 to 255.
        antialias: smooth before making smaller, as PIL does; torch's ``interpolate`` does not by
            default.
        scale: of pixel values before ``mean`` and ``std``.

    Raises:
        ContractError: these do not go together; all problems at once.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Layout = "RGB"
    resize: Resize = "bilinear"
    crop: Crop = "none"
    edge: int | None = None
    fill: int = 114
    antialias: bool = True
    scale: float = 1 / BRIGHTEST

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise ContractError("this image input makes no sense", problems)
        count = self.channels
        object.__setattr__(self, "size", tuple(self.size))
        object.__setattr__(self, "mean", _each(self.mean, count))
        object.__setattr__(self, "std", _each(self.std, count))
        object.__setattr__(self, "scale", float(self.scale))

    @property
    def channels(self) -> int:
        """3, or 1 for gray pictures."""
        return _CHANNELS[self.layout]

    @property
    def mode(self) -> str:
        """Mode of the PIL images that a package takes."""
        return "L" if self.layout == "GRAY" else "RGB"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the input: batch, channels, height, width."""
        return (1, self.channels, *self.size)

    def split(self) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
        """The formula as Core ML's image inputs can say it, and what is left for the program.

        They know one scale for all channels and a bias for each. Where ``std`` differs, that scale
        is a power of two, which loses nothing in float16, and the program multiplies each channel
        by the last part: numbers near one, without anything to add, so that they fold into a
        convolution whatever its padding.

        Returns:
            scale, biases and factors: ``(pixel * scale + bias) * factor``.
        """
        wanted = [self.scale / std for std in self.std]
        offsets = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
        if len(set(wanted)) == 1:
            return wanted[0], tuple(offsets), (1.0,) * len(wanted)
        scale = 2.0 ** round(math.log2(sum(wanted) / len(wanted)))
        factors = tuple(factor / scale for factor in wanted)
        biases = (offset / factor for offset, factor in zip(offsets, factors, strict=True))
        return scale, tuple(biases), factors

    def describe(self) -> str:
        """In a line, for people."""
        height, width = self.size
        how = {"none": "stretched", "center": "its middle cut out", "pad": "filled up"}[self.crop]
        resized = "not resized" if self.resize == "none" else f"{self.resize}, {how}"
        mean, std = (", ".join(f"{n:g}" for n in given) for given in (self.mean, self.std))
        return f"{width} x {height} {self.layout}, {resized}; mean {mean}; std {std}"

    def to_json(self) -> dict[str, object]:
        """As plain JSON values."""
        return asdict(self)

    def _problems(self) -> list[str]:
        found = []
        for name, kinds in (("layout", Layout), ("resize", Resize), ("crop", Crop)):
            if getattr(self, name) not in get_args(kinds):
                wanted = ", ".join(get_args(kinds))
                found.append(f"{name} is {getattr(self, name)!r}, not one of {wanted}")
        if not _are_sizes(self.size):
            found.append(f"size is {self.size!r}, not height and width in pixels")
        count = _CHANNELS.get(self.layout, 3)
        for name in ("mean", "std"):
            found += _channel_problems(name, getattr(self, name), count)
        if not _is_number(self.scale) or self.scale <= 0:
            found.append(f"scale is {self.scale!r}, not a number above 0")
        if not isinstance(self.antialias, bool):
            found.append(f"antialias is {self.antialias!r}, not true or false")
        elif not self.antialias and self.resize not in (*_UNSMOOTHED, "none"):
            found.append(f"resize {self.resize!r} is not known without antialias")
        if not isinstance(self.fill, int) or not 0 <= self.fill <= BRIGHTEST:
            found.append(f"fill is {self.fill!r}, not a whole number from 0 to {BRIGHTEST}")
        return found + self._edge_problems()

    def _edge_problems(self) -> list[str]:
        if self.resize == "none" and self.crop != "none":
            return [f"crop is {self.crop!r}, and resize is 'none'"]
        if self.edge is None:
            return []
        if self.crop != "center":
            return [f"edge is of crop 'center', and crop is {self.crop!r}"]
        if not isinstance(self.edge, int) or (_are_sizes(self.size) and self.edge < max(self.size)):
            return [f"edge is {self.edge!r}, and must cover the size {self.size!r}"]
        return []


def _each(given: float | Sequence[float], count: int) -> tuple[float, ...]:
    values = (given,) if isinstance(given, int | float) else tuple(given)
    return tuple(map(float, values * count if len(values) == 1 else values))


def _channel_problems(name: str, given: object, count: int) -> list[str]:
    values = given if isinstance(given, tuple | list) else (given,)
    if not all(map(_is_number, values)) or len(values) not in (1, count):
        return [f"{name} is {given!r}, not one finite number or {count}"]
    if name == "std" and not all(value > 0 for value in values):
        return [f"std is {given!r}, and pixels are divided by it"]
    return []


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_sizes(size: object) -> bool:
    return (
        isinstance(size, tuple | list)
        and len(size) == 2
        and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in size)
    )
