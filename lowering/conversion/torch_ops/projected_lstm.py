"""LSTM with a projection (``proj_size``), which MIL's LSTM lacks: one step after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Var

from lowering.conversion.builder import MilBuilder
from lowering.errors import LoweringError

# Each step is a dozen operators.
MOST_STEPS = 512


def projected_lstm(
    mb: MilBuilder,
    x: Var,
    state: Sequence[Var],
    weights: Sequence[Var],
    has_biases: bool,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Var, Var, Var]:
    """``aten.lstm.input`` unrolled over time.

    Raises:
        LoweringError: the length is not known, or takes more than ``MOST_STEPS`` steps.
    """
    x = mb.transpose(x=x, perm=[1, 0, 2]) if batch_first else x  # (S, B, C)
    length, directions = x.shape[0], 2 if bidirectional else 1
    if not isinstance(length, (int, np.integer)) or length * layers * directions > MOST_STEPS:
        raise LoweringError(
            "an LSTM with proj_size runs step by step, which takes too many steps here",
            op=str(mb.node.target),
            expected=f"a fixed length, at most {MOST_STEPS} steps over all layers and directions",
            found=f"length {length}, {layers} layers, {directions} directions",
            hint="use an LSTM without proj_size and a Linear after it",
        )
    per_cell = 5 if has_biases else 3
    cells = [weights[i : i + per_cell] for i in range(0, len(weights), per_cell)]
    ends: list[tuple[Var, Var]] = []
    for layer in range(layers):
        runs = []
        for direction in range(directions):
            cell = layer * directions + direction
            h, c = (_cell_state(mb, part, cell) for part in state)
            run, end = _run(mb, x, h, c, cells[cell], has_biases, backwards=direction == 1)
            runs.append(run)
            ends.append(end)
        x = mb.concat(values=runs, axis=2) if bidirectional else runs[0]
    x = mb.transpose(x=x, perm=[1, 0, 2]) if batch_first else x
    hidden, memory = (mb.stack(values=list(part), axis=0) for part in zip(*ends, strict=True))
    return x, hidden, memory


def _cell_state(mb: MilBuilder, state: Var, cell: int) -> Var:
    part = mb.slice_by_size(x=state, begin=[cell, 0, 0], size=[1, -1, -1])
    return mb.squeeze(x=part, axes=[0])


def _run(
    mb: MilBuilder,
    x: Var,
    h: Var,
    c: Var,
    weights: Sequence[Var],
    has_biases: bool,
    backwards: bool,
) -> tuple[Var, tuple[Var, Var]]:
    """One layer in one direction: ``h`` of every step (S, B, P), and the last ``h`` and ``c``."""
    bias = mb.add(x=weights[2], y=weights[3]) if has_biases else None
    inputs = mb.matmul(x=x, y=weights[0], transpose_y=True)  # (S, B, 4 H), for all steps at once
    inputs = mb.add(x=inputs, y=bias) if bias is not None else inputs
    outputs: list[Any] = [None] * int(x.shape[0])
    steps = range(len(outputs))
    for step in reversed(steps) if backwards else steps:
        now = mb.squeeze(
            x=mb.slice_by_size(x=inputs, begin=[step, 0, 0], size=[1, -1, -1]), axes=[0]
        )
        gates = mb.add(x=now, y=mb.matmul(x=h, y=weights[1], transpose_y=True))
        take, keep, new, give = mb.split(x=gates, num_splits=4, axis=1)
        c = mb.add(
            x=mb.mul(x=mb.sigmoid(x=keep), y=c),
            y=mb.mul(x=mb.sigmoid(x=take), y=mb.tanh(x=new)),
        )
        whole = mb.mul(x=mb.sigmoid(x=give), y=mb.tanh(x=c))
        h = outputs[step] = mb.matmul(x=whole, y=weights[-1], transpose_y=True)
    return mb.stack(values=outputs, axis=0), (h, c)
