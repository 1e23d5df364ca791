"""Weights that a quantisation library holds as objects of its own become plain ones for a capture.

torchao puts tensors of its own classes in the place of weights; ``torch.ao`` and what builds on it
put modules there that quantise their weight at each call. Neither is anything that a program can
hold. Here each is replaced by the weight that it stands for, as torch computes with it, and what it
was made of is told beside it.
"""

from __future__ import annotations

import sys
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from frontend.encoding import Encoding, EncodingError, Place, integers_of, place
from frontend.errors import CaptureError

_WEIGHTS_ALONE = (
    "quantise the weights alone: coremltools.optimize.torch.quantization.PostTrainingQuantizer, or "
    "Int8WeightOnlyConfig and IntxWeightOnlyConfig of torchao"
)
# Attributes by which torchao's tensors say that what they are multiplied with is quantised too.
_OF_ACTIVATIONS = ("act_quant_kwargs", "activation_quantization")
_QUANTIZED = "torch.ao.nn.quantized"


class _Reference(Protocol):
    """What torch's reference modules hold of their weight."""

    weight_scale: Tensor
    weight_zero_point: Tensor
    weight_axis: Tensor

    def get_quantized_weight(self) -> Tensor: ...


def with_dense_weights(model: nn.Module) -> dict[Place, Encoding | EncodingError]:
    """Puts plain weights into ``model``, within ``undisturbed``, which puts the others back.

    Returns:
        The encoding of each such weight, by its place in memory; an error says why it has none.

    Raises:
        CaptureError: activations are quantised too, or the model is not finished.
    """
    found: dict[Place, Encoding | EncodingError] = {}
    known: dict[int, nn.Parameter] = {}
    for path, module in model.named_modules():
        _refuse_unfinished(path, module)
        if _is_reference(module):
            made: Tensor = module.get_weight()
            dense = nn.Parameter(made.detach(), requires_grad=False)
            found[place(dense)] = _reference_encoding(cast(_Reference, module))
            module._parameters["weight"] = dense
            module.__dict__["get_weight"] = lambda module=module: module.weight
        for name, weight in module._parameters.items():
            if weight is None or not _is_quantized(weight):
                continue
            if id(weight) not in known:
                _refuse_activations(f"{path}.{name}".strip("."), weight)
                dense = nn.Parameter(weight.dequantize().detach(), requires_grad=False)
                known[id(weight)] = dense
                found[place(dense)] = _tensor_encoding(weight, dense)
            module._parameters[name] = known[id(weight)]
    return found


def _is_quantized(weight: Tensor) -> bool:
    return is_traceable_wrapper_subclass(weight) and callable(getattr(weight, "dequantize", None))


def _is_reference(module: nn.Module) -> bool:
    """Whether it is one of torch's reference modules: a plain weight, quantised at each call."""
    loaded = sys.modules.get("torch.ao.nn.quantized.reference.modules.utils")
    kind = getattr(loaded, "ReferenceQuantizedModule", None)
    return kind is not None and isinstance(module, kind) and "weight" in module._parameters


def _reference_encoding(module: _Reference) -> Encoding | EncodingError:
    quantized = module.get_quantized_weight()
    if not quantized.is_quantized:
        return EncodingError(f"its integers are {quantized.dtype}, which no package has")
    # The tensor has its scales in float64, and torch computes with those of the module.
    shape = [1] * quantized.ndim
    if module.weight_scale.numel() > 1:
        shape[int(module.weight_axis)] = -1
    scales, points = (t.reshape(shape) for t in (module.weight_scale, module.weight_zero_point))
    return _encoding(quantized.int_repr().to(torch.int64), scales, points)


def _tensor_encoding(weight: Tensor, dense: Tensor) -> Encoding | EncodingError:
    """Of a tensor of torchao's: integers, and scales and zero points of blocks."""
    codes, scales, points = (
        getattr(weight, name, None) for name in ("qdata", "scale", "zero_point")
    )
    if not isinstance(codes, Tensor) or not isinstance(scales, Tensor):
        return EncodingError(f"{type(weight).__name__} holds its values in a form of its own")
    if codes.is_floating_point() or codes.shape != dense.shape or scales.ndim != dense.ndim:
        return EncodingError(f"{type(weight).__name__} holds no integer for each value")
    if points is None:
        points = torch.zeros_like(scales)
    return _encoding(codes.to(torch.int64), scales, points)


def _encoding(codes: Tensor, scales: Tensor, points: Tensor) -> Encoding | EncodingError:
    if bool((points != points.round()).any()):
        return EncodingError("its zero points are no integers")
    try:
        return integers_of(codes, scales, points.to(torch.int64))
    except EncodingError as error:
        return error


def _refuse_activations(path: str, weight: Tensor) -> None:
    if any(getattr(weight, name, None) is not None for name in _OF_ACTIVATIONS):
        raise CaptureError(
            "the model quantises activations by what it finds in them, and a package cannot",
            op=path,
            expected="a weight that is quantised alone",
            found=f"{type(weight).__name__} with quantisation of activations",
            hint=_WEIGHTS_ALONE,
        )


def _refuse_unfinished(path: str, module: nn.Module) -> None:
    kind = type(module)
    bases = {base.__name__ for base in kind.__mro__ if base.__module__.startswith("torch.ao")}
    if bases & {"FakeQuantizeBase", "ObserverBase"}:
        raise CaptureError(
            "the model is still in training for its compression",
            module=path,
            expected="a compressed model",
            found=f"{kind.__module__.split('.')[0]}'s {kind.__name__}",
            hint="call finalize() of the quantizer or palettizer, or torch's convert",
        )
    if kind.__module__.startswith(_QUANTIZED) and not _is_reference(module):
        raise CaptureError(
            "the model computes with quantised tensors, and torch exports none of them",
            module=path,
            expected="a module with a plain weight",
            found=f"{kind.__module__}.{kind.__name__}",
            hint=_WEIGHTS_ALONE,
        )
