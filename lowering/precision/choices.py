"""Choices between numbers that float16 cannot tell apart: which of two equal experts, which class.

Where a router's scores are as near as float16 has them, and two of them nearly equal, any rounding
anywhere may send a token elsewhere. No operator in float32 makes that other than chance. Whether it
is all that a package does wrong is seen by a float32 program that is made to choose like it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lowering.precision.calibration import Sample
from lowering.reference import ExecutionError
from lowering.reference.binding import Semantics
from lowering.reference.mixed import MixedProgram
from lowering.reference.program import Op
from lowering.verification.parity import Thresholds, rel_l2

# Operators that choose among the numbers of ``x`` along ``axis``.
_CHOOSING = frozenset({"argsort", "reduce_argmax", "reduce_argmin", "topk"})


@dataclass
class _Seen:
    """One choice of the package.

    Attributes:
        read: the numbers that it chose among.
        places: what it chose.
    """

    read: Tensor
    places: Tensor


def chosen_by_chance(mixed: MixedProgram, ends: Collection[str], sample: Sample) -> tuple[str, ...]:
    """The operators that choose otherwise in float16, where that is all that float16 does wrong.

    Args:
        mixed: the program.
        ends: inputs and outputs that are float16 in the package.
        sample: a call that the package is too far off on.

    Returns:
        Names in program order; empty where there is another error, or the numbers chosen among are
        themselves spoiled: then float32 mends it.
    """
    read_from = {op.inputs["x"][0] for op in mixed.model.ops if _chooses(op)}
    if not read_from:
        return ()
    seen: dict[str, _Seen] = {}
    values: dict[str, Tensor] = {}

    def observe(op: Op, results: tuple[object, ...], computed: tuple[object, ...]) -> None:
        if _chooses(op) and op.inputs["x"][0] in values and isinstance(results[-1], Tensor):
            seen[op.name] = _Seen(values[op.inputs["x"][0]], results[-1].clone())
        for output, result in zip(op.outputs, results, strict=True):
            if output.name in read_from and isinstance(result, Tensor):
                values[output.name] = result.clone()

    halves = mixed.with_halves(mixed.names, ends)
    differing: list[str] = []
    try:
        sample.returned(halves, observe)
        forced = {
            name: _alike(item, partial(differing.append, name)) for name, item in seen.items()
        }
        followed = sample.expecting(mixed.with_functions(forced))
    except ExecutionError:
        return ()
    excused = bool(differing) and max(followed.shares(halves).values()) <= 1
    return tuple(differing) if excused else ()


def _chooses(op: Op) -> bool:
    """Whether an operator outside of loops and branches gives places in its computed ``x``."""
    gives_places = op.type != "topk" or len(op.outputs) > 1
    return op.type in _CHOOSING and gives_places and not op.block and len(op.inputs["x"]) == 1


def _alike(seen: _Seen, differs: Callable[[], None]) -> Callable[[Semantics], Semantics]:
    """Makes an operator choose what was ``seen`` where its own numbers are as near as float16's."""

    def choosing(inner: Semantics) -> Semantics:
        def choose(**arguments: object) -> object:
            own = inner(**arguments)
            x, axis = arguments["x"], arguments.get("axis", -1)
            places = own[-1] if isinstance(own, tuple) else own
            theirs = seen.places.to(places.dtype)
            assert isinstance(x, Tensor) and isinstance(axis, int)
            if torch.equal(places, theirs) or not _as_near(x, seen.read, axis):
                return own
            differs()
            return (x.gather(axis, theirs), theirs) if isinstance(own, tuple) else theirs

        return choose

    return choosing


def _as_near(x: Tensor, read: Tensor, axis: int) -> bool:
    """Whether ``read`` has the numbers ``x`` as well as float16 may have a result.

    What all numbers of a row have in common does not choose among them. Whole numbers are counts
    and places, and none of them is as good as the next.
    """
    if x.shape != read.shape or bool((x == x.round()).all()):
        return False
    common = x.mean(axis, keepdim=True)
    return rel_l2(read - common, x - common) <= Thresholds.fp16_alone
