"""What is known of a value that an operator of an asset computes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OpResult:
    """A result of an operator.

    Attributes:
        name: as the copy returns it.
        op_type: the operator.
        position: its place in the program.
        number: which of the operator's results.
        shape: sizes; -1 where one is open.
        nodes: of the torch program, from which the operator comes.
        output: the output that it is, or ``""``.
    """

    name: str
    op_type: str
    position: int
    number: int
    shape: tuple[int, ...]
    nodes: tuple[str, ...]
    output: str
