"""What each MIL op computes: one table, op type to function, made of one file per op family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lowering.reference.binding import Semantics
from lowering.reference.semantics import (
    activation,
    compression,
    conv,
    elementwise,
    gather_scatter,
    linear,
    lists,
    norm,
    pipeline,
    pool,
    random,
    recurrent,
    reduction,
    resample,
    resize,
    slicing,
    state,
    tensor_ops,
    transform,
)

SEMANTICS: Mapping[str, Semantics] = {
    **activation.TABLE,
    **compression.TABLE,
    **conv.TABLE,
    **elementwise.TABLE,
    **gather_scatter.TABLE,
    **linear.TABLE,
    **lists.TABLE,
    **norm.TABLE,
    **pipeline.TABLE,
    **pool.TABLE,
    **random.TABLE,
    **recurrent.TABLE,
    **reduction.TABLE,
    **resample.TABLE,
    **resize.TABLE,
    **slicing.TABLE,
    **state.TABLE,
    **tensor_ops.TABLE,
    **transform.TABLE,
}


def _cond(pred: bool) -> None:
    """Arguments of ``cond``; its blocks are run by the executor."""


def _while_loop(loop_vars: list[Any]) -> None:
    """Arguments of ``while_loop``; its blocks are run by the executor."""


# Ops with nested blocks, by the arguments they take besides.
CONTROL_FLOW: Mapping[str, Semantics] = {"cond": _cond, "while_loop": _while_loop}
