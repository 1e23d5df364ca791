"""Keeps coremltools from changing a scale when it makes a ``batch_norm`` of ``mul`` and ``add``.

coremltools 9.0 gives that ``batch_norm`` a variance of one and its default epsilon, 1e-5, so that
the scale becomes 1 / sqrt(1 + 1e-5) of what it was: an error of 5e-6 of the scaled value, which a
shift that nearly cancels it makes ten times larger, relative to the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import Operation, Program

from lowering.conversion.mil_passes import around
from lowering.package.blocks import walk

_FUSION = "common::fuse_elementwise_to_batchnorm"


@contextmanager
def exact_batch_norms() -> Iterator[None]:
    """Correct that pass for the time of one conversion; restores coremltools' own on exit.

    The caller holds the conversion lock: the table of passes is shared by the whole process.
    """

    def fuse(program: Program, theirs: Callable[[], None]) -> None:
        before = {op.name for op in _batch_norms(program)}
        theirs()
        for op in _batch_norms(program):
            if op.name not in before:
                _undo_epsilon(op)

    with around(_FUSION, fuse):
        yield


def _batch_norms(prog: Program) -> list[Any]:
    return [
        op
        for function in prog.functions.values()
        for op in walk(function)
        if op.op_type == "batch_norm"
    ]


def _undo_epsilon(op: Operation) -> None:
    """Multiply gamma by what dividing by sqrt(variance + epsilon) takes away."""
    block = op.enclosing_block
    lost = np.sqrt(op.variance.val.astype(np.float64) + op.epsilon.val)
    with block:
        exact = mb.batch_norm(
            x=op.x,
            mean=op.mean.val,
            variance=op.variance.val,
            gamma=(op.gamma.val * lost).astype(op.gamma.val.dtype),
            beta=op.beta.val,
            epsilon=op.epsilon.val,
            name=op.name,
            before_op=op,
        )
    block.replace_uses_of_var_after_op(anchor_op=op, old_var=op.outputs[0], new_var=exact)
    block.remove_ops([op])
