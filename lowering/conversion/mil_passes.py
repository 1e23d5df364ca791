"""Passes of coremltools, changed for the time of one conversion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from coremltools.converters.mil.mil import Program
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY


@contextmanager
def around(name: str, apply: Callable[[Program, Callable[[], None]], None]) -> Iterator[None]:
    """Run ``apply`` wherever coremltools would run its pass ``name``.

    The caller holds the conversion lock: the table of passes is shared by the whole process.

    Args:
        name: of the pass, such as ``"common::noop_elimination"``.
        apply: gets the program, and coremltools' own pass, bound to that program.
    """
    theirs: Any = PASS_REGISTRY.passes[name]

    class Ours(theirs):
        def apply(self, prog: Program) -> None:
            own = super().apply
            apply(prog, lambda: own(prog))

    PASS_REGISTRY.passes[name] = Ours
    try:
        yield
    finally:
        PASS_REGISTRY.passes[name] = theirs
