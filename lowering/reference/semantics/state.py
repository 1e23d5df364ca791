"""Reading and writing state. Values are never changed in place, so no copy is needed."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lowering.reference.binding import Semantics


def read_state(input: Any) -> Tensor:
    """The value of a state now."""
    return input.value


def write_state(input: Any, data: Tensor) -> tuple[()]:
    """Replaces the value of a state."""
    input.value = data
    return ()


TABLE: dict[str, Semantics] = {"read_state": read_state, "write_state": write_state}
