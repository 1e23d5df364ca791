"""Example inputs for models that say what they take."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from frontend.errors import CaptureError


class InferredInputsWarning(UserWarning):
    """The model's own example inputs fix sizes that the caller did not choose."""


# A batch of one is what Core ML packages are used with.
_BATCH = 1


def infer_inputs(model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword example inputs that ``model`` offers itself.

    Understood: HuggingFace's ``dummy_inputs`` (keywords), Lightning's ``example_input_array``
    (a tensor, a tuple or a dictionary) and timm's ``default_cfg["input_size"]`` (channels,
    height, width: a batch of one is made).

    Raises:
        CaptureError: the model offers none; the message says what to pass.
    """
    array = getattr(model, "example_input_array", None)
    if array is not None:
        if isinstance(array, dict):
            return (), dict(array)
        return (tuple(array), {}) if isinstance(array, tuple | list) else ((array,), {})
    config = getattr(model, "default_cfg", None) or getattr(model, "pretrained_cfg", None)
    size = config.get("input_size") if isinstance(config, dict) else None
    if size:
        return (torch.rand(_BATCH, *size),), {}
    dummies = getattr(model, "dummy_inputs", None)
    if isinstance(dummies, dict) and dummies:
        accepted = inspect.signature(model.forward).parameters
        known = {name: value for name, value in dummies.items() if name in accepted}
        if known:
            warnings.warn(_fixed_sizes(model, known), InferredInputsWarning, stacklevel=3)
            return (), known
    raise CaptureError(
        "example inputs are needed and cannot be inferred from the model",
        op=f"{type(model).__name__}.forward{_signature(model)}",
        expected="example_inputs=(tensor, ...) or kwargs={name: tensor}",
        found="none, and no dummy_inputs, example_input_array or default_cfg on the model",
        hint=f"pass example_inputs for {_required(model)}, such as (torch.randn(1, 3, 224, 224),)",
    )


def _fixed_sizes(model: nn.Module, inputs: Mapping[str, Any]) -> str:
    """HuggingFace's inputs have sizes that nobody asked for, such as three texts of five tokens."""
    shown = ", ".join(
        f"{name} {list(value.shape)}"
        for name, value in inputs.items()
        if isinstance(value, torch.Tensor)
    )
    return (
        f"no example inputs were given, and every size is fixed to what {type(model).__name__} "
        f"offers: {shown}; pass example_inputs or kwargs of the sizes that you need"
    )


def _signature(model: nn.Module) -> str:
    return str(inspect.signature(model.forward))


def _required(model: nn.Module) -> str:
    names = [
        name
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    return ", ".join(names) or "forward"
