"""Image inputs and outputs: PIL images outside, (1, C, H, W) tensors inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from google.protobuf.message import Message
from torch import Tensor

from frontend.errors import InputError
from lowering.package import proto
from lowering.reference.errors import ExecutionError

_IMAGE = proto.FeatureTypes_pb2.ImageFeatureType
# Colour space: mode of the PIL image.
_MODE: dict[int, str] = {
    _IMAGE.RGB: "RGB",
    _IMAGE.BGR: "RGB",
    _IMAGE.GRAYSCALE: "L",
    _IMAGE.GRAYSCALE_FLOAT16: "F",
}


def image_mode(kind: Message) -> str:
    """Mode of the PIL images that a feature takes: ``RGB``, ``L`` or ``F``."""
    return _MODE[kind.colorSpace]


def new_image(kind: Message, pixels: np.ndarray) -> object:
    """A PIL image for a feature, of ``pixels`` (H, W) or (H, W, 3).

    Raises:
        ExecutionError: Pillow is not installed.
    """
    mode = image_mode(kind)
    return _pillow().fromarray(pixels.astype(np.float32 if mode == "F" else np.uint8))


def from_image(name: str, kind: Message, given: object) -> Tensor:
    """A PIL image as a (1, C, H, W) float32 tensor of its pixel values.

    Raises:
        InputError: it is no image, or has a mode or size that the model does not take.
    """
    mode = image_mode(kind)
    if not hasattr(given, "mode") or not hasattr(given, "size"):
        raise InputError(
            f"input {name!r} must be an image",
            expected=f"a PIL image of mode {mode}",
            found=type(given).__name__,
        )
    if given.mode != mode:
        raise InputError(
            f"input {name!r} has the wrong image mode",
            expected=mode,
            found=given.mode,
            hint=f"image.convert({mode!r})",
        )
    width, height = given.size
    if not _legal_size(kind, width, height):
        raise InputError(
            f"input {name!r} has the wrong image size",
            expected=_size_text(kind),
            found=f"{width} x {height}",
            hint="resize the image before",
        )
    pixels = torch.from_numpy(np.array(given, dtype=np.float32))
    if pixels.ndim == 2:
        return pixels[None, None]
    pixels = pixels.permute(2, 0, 1)
    return (pixels.flip(0) if kind.colorSpace == _IMAGE.BGR else pixels)[None].contiguous()


def to_image(kind: Message, value: Tensor) -> object:
    """A (1, C, H, W) tensor as a PIL image; 8-bit pixels are rounded and limited to 0..255.

    Raises:
        ExecutionError: Pillow is not installed.
    """
    pixels = value[0]
    if kind.colorSpace == _IMAGE.GRAYSCALE_FLOAT16:
        return new_image(kind, pixels[0].numpy())
    pixels = pixels.round().clamp(0, 255)
    if kind.colorSpace == _IMAGE.GRAYSCALE:
        return new_image(kind, pixels[0].numpy())
    if kind.colorSpace == _IMAGE.BGR:
        pixels = pixels.flip(0)
    return new_image(kind, pixels.permute(1, 2, 0).numpy())


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ExecutionError("images need Pillow", hint="pip install pillow") from error
    return Image


def _legal_size(kind: Message, width: int, height: int) -> bool:
    flexibility = kind.WhichOneof("SizeFlexibility")
    if flexibility == "enumeratedSizes":
        sizes = {(item.width, item.height) for item in kind.enumeratedSizes.sizes}
        return (width, height) in sizes | {(kind.width, kind.height)}
    if flexibility == "imageSizeRange":
        limits = kind.imageSizeRange
        return all(
            limit.lowerBound <= size and (limit.upperBound < 0 or size <= limit.upperBound)
            for size, limit in ((width, limits.widthRange), (height, limits.heightRange))
        )
    return (width, height) == (kind.width, kind.height)


def _size_text(kind: Message) -> str:
    flexibility = kind.WhichOneof("SizeFlexibility")
    if flexibility == "enumeratedSizes":
        return ", ".join(f"{item.width} x {item.height}" for item in kind.enumeratedSizes.sizes)
    if flexibility == "imageSizeRange":
        limits = kind.imageSizeRange
        return " x ".join(
            f"{item.lowerBound}..{item.upperBound if item.upperBound >= 0 else ''}"
            for item in (limits.widthRange, limits.heightRange)
        )
    return f"{kind.width} x {kind.height}"
