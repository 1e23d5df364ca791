"""Puts conditions in front of coremltools' MIL passes for the time of one conversion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from coremltools.converters.mil.mil import Operation, Var


@dataclass(frozen=True)
class Guard:
    """One function of coremltools that is replaced while a program is converted.

    Attributes:
        owner: the class or module that holds it.
        name: its name there.
        instead: called with coremltools' own function first, then with the arguments of the call
            (``self`` among them for a method).
    """

    owner: type | ModuleType
    name: str
    instead: Callable[..., Any]


@contextmanager
def guarded(guards: tuple[Guard, ...]) -> Iterator[None]:
    """Put ``guards`` in place; restores coremltools' own functions on exit.

    The caller holds the conversion lock: the passes are shared by the whole process.

    Raises:
        LookupError: this coremltools has no such function.
    """
    before = []
    try:
        for guard in guards:
            theirs = vars(guard.owner).get(guard.name)
            if theirs is None:
                raise LookupError(f"coremltools has no {guard.owner.__name__}.{guard.name}")
            before.append((guard, theirs))
            setattr(guard.owner, guard.name, _replacement(theirs, guard.instead))
        yield
    finally:
        for guard, theirs in reversed(before):
            setattr(guard.owner, guard.name, theirs)


def _replacement(theirs: Any, instead: Callable[..., Any]) -> object:
    static = isinstance(theirs, staticmethod)
    function = theirs.__func__ if static else theirs

    def call(*args: object, **kwargs: object) -> Any:
        return instead(function, *args, **kwargs)

    return staticmethod(call) if static else call


def is_output(op: Operation) -> bool:
    """A result of ``op`` is returned by its block."""
    return any(var in op.enclosing_block.outputs for var in op.outputs)


def is_private(op: Operation) -> bool:
    """One operator reads the only result of ``op``, and its block does not return it."""
    return len(op.outputs) == 1 and len(op.outputs[0].child_ops) == 1 and not is_output(op)


def constant_operand(op: Operation) -> Var | None:
    """The constant among the operands ``x`` and ``y`` of ``op``, ``None`` without one."""
    return next((var for var in (op.x, op.y) if var.val is not None), None)
