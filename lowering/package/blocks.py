"""Nested blocks of MIL, as a file holds them and as coremltools builds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, Self, TypeVar


class _Operation(Protocol):
    @property
    def blocks(self) -> Iterable[_Block[Self]]: ...


_Op = TypeVar("_Op", bound=_Operation)
_OpOf = TypeVar("_OpOf", covariant=True)


class _Block(Protocol[_OpOf]):
    @property
    def operations(self) -> Iterable[_OpOf]: ...


def walk(block: _Block[_Op]) -> Iterator[_Op]:
    """Every operation in program order, those of nested blocks after the one that holds them.

    Args:
        block: a block or function of ``MIL_pb2``, of coremltools' MIL, or of the interpreter.
    """
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from walk(inner)
