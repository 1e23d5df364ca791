"""Batch norms whose numbers are kept: those coremltools makes, and those beyond float16.

coremltools 9.0 gives that ``batch_norm`` a variance of one and its default epsilon, 1e-5, so that
the scale becomes 1 / sqrt(1 + 1e-5) of what it was: an error of 5e-6 of the scaled value, which a
shift that nearly cancels it makes ten times larger, relative to the result.

Statistics of trained weights may lie beyond float16: a running variance of 497,160 in the CREPE
pitch tracker. As a scale and a shift, folded in float64, they nearly always fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import Operation, Program

from lowering.conversion.mil_passes import around
from lowering.package.blocks import walk

_FP16 = np.finfo(np.float16)
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
            elif not _fits(op):
                _fold(op)

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
    lost = np.sqrt(op.variance.val.astype(np.float64) + op.epsilon.val)
    _replace(op, op.mean.val, op.variance.val, op.gamma.val * lost, op.beta.val)


def _fits(op: Operation) -> bool:
    """Float16 holds the statistics, and has all its bits for the variance."""
    if op.mean.val is None or op.variance.val is None:
        return True  # computed while the model runs
    mean, variance = np.abs(op.mean.val), op.variance.val
    smallest = float(_FP16.tiny)
    return bool(mean.max() <= _FP16.max and variance.max() <= _FP16.max) and bool(
        ((variance == 0) | (variance >= smallest)).all()
    )


def _fold(op: Operation) -> None:
    """The same batch norm with a mean of zero and a variance of one, folded in float64."""
    channels = np.zeros_like(op.mean.val)
    gamma = 1.0 if op.gamma is None else op.gamma.val.astype(np.float64)
    beta = 0.0 if op.beta is None else op.beta.val.astype(np.float64)
    epsilon = float(op.epsilon.val)
    scale = gamma / np.sqrt(op.variance.val.astype(np.float64) + epsilon)
    shift = beta - op.mean.val.astype(np.float64) * scale
    _replace(op, channels, channels + 1, scale * math.sqrt(1.0 + epsilon), shift)


def _replace(op: Operation, mean: object, variance: object, gamma: object, beta: object) -> None:
    block = op.enclosing_block
    kind = op.mean.val.dtype
    with block:
        exact = mb.batch_norm(
            x=op.x,
            mean=mean,
            variance=variance,
            gamma=np.asarray(gamma, dtype=kind),
            beta=np.asarray(beta, dtype=kind),
            epsilon=op.epsilon.val,
            name=op.name,
            before_op=op,
        )
    block.replace_uses_of_var_after_op(anchor_op=op, old_var=op.outputs[0], new_var=exact)
    block.remove_ops([op])
