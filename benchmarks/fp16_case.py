"""What a case of ``benchmarks.fp16_cases`` is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor, nn

Call: TypeAlias = tuple[Tensor, ...]


@dataclass(frozen=True)
class Case:
    """A model, its example inputs and further calls that its user will make."""

    name: str
    model: nn.Module
    example: Call
    calls: tuple[Call, ...] = ()


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the function makes of its inputs."""
        return self.function(*inputs)


def of(name: str, function: Callable[..., Tensor], *inputs: Tensor) -> Case:
    """A case of a function."""
    return Case(name, Function(function), inputs)
