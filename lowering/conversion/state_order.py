"""Stores states right behind what computes them, for any number of states in any order.

coremltools' own pass for this looks for the place in a list that it took before it moved anything:
where a value that is stored is followed by the store of another state, which has moved already, it
fails with the text of that store as its message (*seen* in coremltools 9.0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import Operation, Program
from coremltools.converters.mil.mil.scope import ScopeInfo

from lowering.conversion.mil_passes import around
from lowering.package.blocks import walk

_ORDERING = "common::canonicalize_inplace_pattern"
_STORE = "coreml_update_state"
_STATE_OPS = (_STORE, "read_state")


@contextmanager
def states_stored_early() -> Iterator[None]:
    """Does the pass's work for the time of one conversion.

    The caller holds the conversion lock: the table of passes is shared by the whole process.
    """

    def order(program: Program, theirs: Callable[[], None]) -> None:
        for function in program.functions.values():
            for store in [op for op in walk(function) if op.op_type == _STORE]:
                _move_up(store)

    with around(_ORDERING, order):
        yield


def _move_up(store: Operation) -> None:
    computed = store.value.op
    block = store.enclosing_block
    if computed is None or computed.op_type in _STATE_OPS or computed.enclosing_block is not block:
        return
    operations = list(block.operations)
    behind = operations[operations.index(computed) + 1 :]
    place = next(op for op in behind if op.op_type != _STORE or op is store)
    if place is store:
        return  # nothing but other stores is between
    with block, mb.scope(*_scopes(computed)):
        moved = mb.coreml_update_state(state=store.state, value=store.value, before_op=place)
    replaced = block.try_replace_uses_of_var_after_op(
        anchor_op=store, old_var=store.outputs[0], new_var=moved
    )
    block.remove_ops([store if replaced else moved.op])


def _scopes(op: Operation) -> list[Any]:
    return [ScopeInfo(source=source, data=data) for source, data in op.scopes.items()]
