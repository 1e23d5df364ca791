"""Keras' LSTM and GRU by torch's operators: the same numbers, and one operator for all steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# What a backend of Keras returns: the last output, all outputs, and the last states.
Run = tuple[Tensor, Tensor, list[Tensor]]


def lstm_as_one(plain: Callable[..., Run]) -> Callable[..., Run]:
    """Keras' ``backend.lstm``; ``plain`` computes what torch's operator does not."""

    def lstm(x: Tensor, h: Tensor, c: Tensor, mask: object, **options: Any) -> Run:
        if mask is not None or not _is_usual(options):
            return plain(x, h, c, mask, **options)
        x, weights = _steps(x, options), _weights(options)
        has_bias = options["bias"] is not None
        if has_bias:
            weights += [_tensor(options["bias"]), torch.zeros_like(_tensor(options["bias"]))]
        # Keras and torch have the gates in one order: input, forget, cell, output.
        out, h, c = torch._VF.lstm(
            x, [h[None], c[None]], weights, has_bias, 1, 0.0, False, False, True
        )
        return out[:, -1], out, [h[0], c[0]]

    return lstm


def gru_as_one(plain: Callable[..., Run]) -> Callable[..., Run]:
    """Keras' ``backend.gru``, likewise."""

    def gru(x: Tensor, h: Tensor, mask: object, **options: Any) -> Run:
        if mask is not None or not _is_usual(options) or not options.get("reset_after", True):
            return plain(x, h, mask, **options)
        x, weights = _steps(x, options), [_swapped(weight) for weight in _weights(options)]
        has_bias = options["bias"] is not None
        if has_bias:
            weights += [_swapped(bias) for bias in _tensor(options["bias"])]
        out, h = torch._VF.gru(x, h[None], weights, has_bias, 1, 0.0, False, False, True)
        return out[:, -1], out, [h[0]]

    return gru


def _is_usual(options: dict[str, Any]) -> bool:
    kinds = [getattr(options[n], "__name__", "") for n in ("activation", "recurrent_activation")]
    return kinds == ["tanh", "sigmoid"] and options.get("batch_first", True)


def _steps(x: Tensor, options: dict[str, Any]) -> Tensor:
    return torch.flip(x, [1]) if options.get("go_backwards") else x


def _weights(options: dict[str, Any]) -> list[Tensor]:
    return [_tensor(options[name]).t() for name in ("kernel", "recurrent_kernel")]


def _tensor(variable: Any) -> Tensor:
    value: Tensor = getattr(variable, "value", variable)
    return value


def _swapped(weight: Tensor) -> Tensor:
    """Keras has the gates update, reset, new; torch reset, update, new."""
    update, reset, new = weight.chunk(3)
    return torch.cat([reset, update, new])
