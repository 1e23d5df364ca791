"""Inputs for a model from words: files, images, numbers, or drawn at random."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from frontend.errors import InputError
from lowering.reference.images import image_mode, new_image
from lowering.reference.io import Feature
from lowering.support.array_file import READ_ERRORS, read_array_file

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp"}
_PIXEL_VALUES = 256
# Random integers stay below this: most are indices, and every vocabulary has two entries.
_RANDOM_INTEGERS = 2


def given_inputs(
    features: Mapping[str, Feature], assignments: Iterable[str], seed: int
) -> dict[str, Any]:
    """Inputs of these ``features`` from words ``name=value``; those not given are drawn at random.

    An optional one that is not given is left out.

    A value is a ``.npy`` file, an image file, a number, ``random`` or ``zeros``; an image and a
    ``.wav`` file stay paths, left to what knows how the model takes pictures and sound.

    Raises:
        InputError: a word cannot be read, or names no input.
    """
    words: dict[str, str] = {}
    for assignment in assignments:
        name, separator, word = assignment.partition("=")
        if not separator:
            raise InputError("cannot read an input", expected="NAME=VALUE", found=assignment)
        if name not in features:
            raise InputError(f"the model has no input {name!r}", expected=", ".join(features))
        words[name] = word
    generator = np.random.default_rng(seed)
    return {
        name: _value(feature, words.get(name, "random"), generator)
        for name, feature in features.items()
        if name in words or feature.default is None
    }


def default_shape(feature: Feature) -> tuple[int, ...]:
    """The default shape of an input, or the smallest legal one."""
    if feature.enumerated:
        return feature.enumerated[0]
    return feature.default_shape or tuple(max(1, low) for low, _ in feature.ranges or ())


def random_input(feature: Feature, generator: np.random.Generator) -> object:
    """A legal value of an input: normal floats, integers 0 or 1, or an image of noise."""
    if feature.image is not None:
        return _random_image(feature, generator)
    shape = default_shape(feature)
    if feature.dtype.is_float:
        return generator.standard_normal(shape).astype(feature.dtype.storage)
    return generator.integers(0, _RANDOM_INTEGERS, shape).astype(feature.dtype.storage)


def _value(feature: Feature, word: str, generator: np.random.Generator) -> object:
    if word == "random":
        return random_input(feature, generator)
    if word == "zeros":
        return np.zeros(default_shape(feature), dtype=feature.dtype.storage)
    path = Path(word)
    if path.suffix == ".npy":
        return _read_array(feature, path)
    if feature.image is None and path.suffix.lower() in _IMAGE_SUFFIXES:
        raise InputError(f"input {feature.name!r} is no image", expected="a .npy file")
    if path.suffix.lower() == ".wav":
        return path
    try:
        number = float(word)
    except ValueError as error:
        if feature.image is not None:
            return path
        raise InputError(
            f"cannot read input {feature.name!r}",
            expected="a .npy file, an image, a .wav file, a number, random or zeros",
            found=word,
        ) from error
    return np.full(default_shape(feature), number)


def _read_array(feature: Feature, path: Path) -> np.ndarray:
    try:
        array = read_array_file(path)
    except READ_ERRORS as error:
        raise InputError(f"cannot read input {feature.name!r}", found=f"{path}: {error}") from error
    if isinstance(array, dict):
        raise InputError(
            f"cannot read input {feature.name!r}", expected="one array", found=f"{path}: several"
        )
    return array


def _random_image(feature: Feature, generator: np.random.Generator) -> object:
    kind = feature.image
    assert kind is not None
    channels = {"RGB": (3,), "L": (), "F": ()}[image_mode(kind)]
    pixels = generator.integers(0, _PIXEL_VALUES, (kind.height, kind.width, *channels))
    return new_image(kind, pixels)
