"""Whole numbers that a model keeps in buffers and reads as Python numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def numbers_as_constants(model: nn.Module) -> Iterator[None]:
    """Inside, integer buffers of one element are plain tensors: constants to an exporter.

    A stride kept as ``register_buffer("stride", torch.tensor(2))`` may then be a slice's end.
    torch refuses to functionalise a program that writes one of them, a counter.
    """
    kept = {module: dict(module._buffers) for module in model.modules()}
    moved = [
        (module, name, tensor)
        for module, buffers in kept.items()
        for name, tensor in buffers.items()
        if tensor is not None and tensor.numel() == 1 and not tensor.is_floating_point()
    ]
    try:
        for module, name, tensor in moved:
            del module._buffers[name]
            module.__dict__[name] = tensor.clone()  # a program that writes it would write it here
        yield
    finally:
        for module, name, _ in moved:
            module.__dict__.pop(name, None)
            module._buffers.clear()
            module._buffers.update(kept[module])  # in the order of before
