"""Packages that take images: the tensor an image becomes, and the image nearest to a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from lowering.reference import LoadedModel
from lowering.reference.images import to_image
from lowering.verification.original import Original

_BRIGHTEST = 255.0


def with_nearest_images(model: LoadedModel, original: Original) -> Original:
    """``original`` on inputs that images can hold: the nearest ones to its own.

    Pixels are whole numbers from 0 to 255, scaled and shifted by the package before the model's
    first operator. The original then sees the same tensors as the package.
    """
    inputs = original.inputs()
    arrays = {}
    for name, own in zip(model.inputs, inputs, strict=False):
        key = name if name in inputs else own
        if model.inputs[name].image is not None and key not in original.images:
            scale, bias = _preprocessing(model, name)
            arrays[key] = _pixels(inputs[key], scale, bias) * scale + bias
    return original.with_inputs(arrays) if arrays else original


def image_of(model: LoadedModel, name: str, tensor: Tensor) -> object:
    """The PIL image that the package turns into ``tensor`` (1, C, H, W), or nearly so."""
    return to_image(model.inputs[name].image, _pixels(tensor, *_preprocessing(model, name)))


def _pixels(tensor: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return ((tensor.float() - bias) / scale).round().clamp(0.0, _BRIGHTEST)


def _preprocessing(model: LoadedModel, name: str) -> tuple[Tensor, Tensor]:
    """What pixels are multiplied by, and what is added then: 1 and 0 where nothing is.

    coremltools writes them as the first operators of the program.
    """
    found = {"mul": torch.tensor(1.0), "add": torch.tensor(0.0)}
    value = name
    for kind in found:
        readers = [op for op in model.program.ops() if (value,) in op.inputs.values()]
        if len(readers) == 1 and readers[0].type == kind and "y" in readers[0].constants:
            found[kind] = readers[0].constants["y"]
            value = readers[0].outputs[0].name
    return found["mul"], found["add"]
