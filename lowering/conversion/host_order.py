"""The order of a program with states: what cannot run on the ANE stands together.

Core ML cuts a program into stretches of neighbours that run on one device, and each change of
device has a price (*measured*, see the planner). Operators on integers, and writes to a state at a
place that is computed, do not run on the ANE. A decoder writes keys and values of each layer; where
the store of one stands before the write of the other, the layer has two such stretches or takes all
in between along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from coremltools.converters.mil.mil import Operation, Program, Var, types
from coremltools.converters.mil.mil.utils import CacheDoublyLinkedList

from lowering.conversion.mil_passes import around

# The pass after which no other moves operators: only names and copies of constants change.
_LAST_TO_MOVE = "common::topological_reorder"
_STATE_OPS = ("read_state", "coreml_update_state")


@contextmanager
def host_work_together() -> Iterator[None]:
    """Orders programs with states for the time of one conversion.

    The caller holds the conversion lock: the table of passes is shared by the whole process.
    """

    def order(program: Program, theirs: Callable[[], None]) -> None:
        theirs()
        for function in program.functions.values():
            operations = list(function.operations)
            if any(op.op_type == "coreml_update_state" for op in operations):
                function.operations = CacheDoublyLinkedList(ordered(operations))

    with around(_LAST_TO_MOVE, order):
        yield


def ordered(operations: Sequence[Operation]) -> list[Operation]:
    """``operations`` in another order that computes the same.

    What one device can do at once is done before the other goes on; within a device the order
    stays. Reads and writes of a state keep their order, and so do operators with blocks.
    """
    ahead = _dependencies(operations)
    left, done = list(operations), set[Operation]()
    found: list[Operation] = []
    on_host = True
    while left:
        before, waiting = len(found), []
        for op in left:
            here = _is_constant(op) or _on_host(op) is on_host
            if here and done.issuperset(ahead[op]):
                done.add(op)
                found.append(op)
            else:
                waiting.append(op)
        left = waiting
        if len(found) == before:
            on_host = not on_host
    return found


def _dependencies(operations: Sequence[Operation]) -> dict[Operation, list[Operation]]:
    """What must stand before each operator."""
    here = set(operations)
    newest: dict[Var, Operation] = {}
    barrier: Operation | None = None
    ahead: dict[Operation, list[Operation]] = {}
    for place, op in enumerate(operations):
        found = [var.op for var in _read(op) if var.op in here]
        if op.op_type in _STATE_OPS:
            state = op.input if op.op_type == "read_state" else op.state
            if state in newest:
                found.append(newest[state])
            newest[state] = op
        if op.blocks:
            found += operations[:place]
            barrier = op
        elif barrier is not None:
            found.append(barrier)
        ahead[op] = list(dict.fromkeys(found))
    return ahead


def _read(op: Operation) -> Iterator[Var]:
    for value in op.inputs.values():
        yield from value if isinstance(value, list | tuple) else (value,)


def _is_constant(op: Operation) -> bool:
    return op.op_type == "const" or op.op_type.startswith("constexpr")


def _on_host(op: Operation) -> bool:
    """Whether the ANE cannot run it: it reads or computes integers of 32 bits."""
    runtime = [var for var in (*_read(op), *op.outputs) if var.val is None]
    return any(var.dtype is types.int32 for var in runtime)
