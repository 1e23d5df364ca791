"""What a program does to a state between reading and writing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

from lowering.planner.mil import ProgramOp, ReadProgram

_WRITES = ("write_state", "coreml_update_state")


def made_by(program: ReadProgram) -> dict[str, ProgramOp]:
    """Each value's operator."""
    return {name: op for op in program.ops for name in op.writes}


def on_the_way_to_states(program: ReadProgram) -> Iterator[ProgramOp]:
    """Operators whose results, as large as a state, are what is written to it in the end.

    From each write back along values of the state's size, up to where the state is read; what is
    put into a part of it, and how that was computed, is left out.
    """
    makers = made_by(program)
    seen: set[int] = set()
    for write in program.ops:
        if write.facts.op_type not in _WRITES:
            continue
        pending = [name for name in write.reads if name in makers]
        size = max((_size(makers, name) for name in pending), default=0)
        while pending:
            op = makers[pending.pop()]
            if id(op) in seen or op.facts.op_type == "read_state":
                continue
            seen.add(id(op))
            yield op
            pending += [n for n in op.reads if n in makers and _size(makers, n) == size]


def _size(makers: Mapping[str, ProgramOp], name: str) -> int:
    op = makers[name]
    found = [
        prod(tensor.shape)
        for own, tensor in zip(op.writes, op.facts.outputs, strict=False)
        if own == name
    ]
    return found[0] if found else 0
