"""Recurrent layers. coremltools 9.0 knows them from TorchScript but not from torch.export.

The LSTM of the TorchScript route is right, one operator a layer, and is reached under the name of
the exported operator (the same gap: pytorch/executorch#4090). Its GRU is right too, but a
``while_loop`` for each layer and direction, since MIL's ``gru`` multiplied the state by the reset
gate before the matrix product, and torch's does so after it. From iOS 18 on ``gru`` has
``reset_after`` and a bias for each side (*documented*: coremltools' ``ops/defs/iOS18/recurrent``),
which is torch's; there a GRU is one operator a layer and direction. That Core ML computes it as
documented is *assumed*: coremltools 9.0 marks its own comparison with torch on a Mac as expected to
fail (``ops/tests/iOS18/test_recurrent.py``, without a public cause), which the planner tells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from coremltools.converters.mil._deployment_compatibility import AvailableTarget
from coremltools.converters.mil.mil import Var
from coremltools.converters.mil.mil.block import is_current_opset_version_compatible_with

from lowering.conversion.builder import Lowered, MilBuilder
from lowering.conversion.torch_ops.projected_lstm import projected_lstm

aten = torch.ops.aten

# (mb, x (S, B, C), state (B, H), weights of the cell) -> states of all steps, and the last one.
_Layer: TypeAlias = Callable[[MilBuilder, Var, Var, Sequence[Var]], tuple[Var, Var]]


def _stacked(
    mb: MilBuilder,
    layer: _Layer,
    x: Var,
    state: Var,
    weights: Sequence[Var],
    has_biases: bool,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Var, Var]:
    """``layer`` for every layer and direction, as torch stacks them."""
    per_cell = 4 if has_biases else 2
    cells = [weights[i : i + per_cell] for i in range(0, len(weights), per_cell)]
    directions = 2 if bidirectional else 1
    x = mb.transpose(x=x, perm=[1, 0, 2]) if batch_first else x  # (S, B, C)
    last = []
    for index in range(layers):
        runs = []
        for direction in range(directions):
            cell = index * directions + direction
            steps = mb.reverse(x=x, axes=[0]) if direction else x
            start = mb.slice_by_size(x=state, begin=[cell, 0, 0], size=[1, -1, -1])
            run, end = layer(mb, steps, mb.squeeze(x=start, axes=[0]), cells[cell])
            runs.append(mb.reverse(x=run, axes=[0]) if direction else run)
            last.append(end)
        x = mb.concat(values=runs, axis=2) if bidirectional else runs[0]
    x = mb.transpose(x=x, perm=[1, 0, 2]) if batch_first else x
    return x, mb.stack(values=last, axis=0)


def _rnn(activation: str) -> Callable[..., tuple[Var, Var]]:
    def layer(mb: MilBuilder, x: Var, state: Var, cell: Sequence[Var]) -> tuple[Var, Var]:
        run, end = mb.rnn(
            x=x,
            initial_h=state,
            weight_ih=cell[0],
            weight_hh=cell[1],
            bias=mb.add(x=cell[2], y=cell[3]) if len(cell) > 2 else None,
            output_sequence=True,
            activation=activation,
        )
        return run, end

    return _lowering(layer)


def _lowering(layer: _Layer) -> Callable[..., tuple[Var, Var]]:
    """What lowers torch's operator of all layers, from what lowers one layer and direction."""

    def lower(
        mb: MilBuilder,
        x: Var,
        state: Var,
        weights: Sequence[Var],
        has_biases: bool,
        layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Var, Var]:
        return _stacked(
            mb, layer, x, state, weights, has_biases, layers, bidirectional, batch_first
        )

    return lower


def _gru(mb: MilBuilder, x: Var, state: Var, weights: Sequence[Var], *options: object) -> Lowered:
    is_new = is_current_opset_version_compatible_with(AvailableTarget.iOS18)
    if not is_new or any(part.val is None for part in weights):
        return NotImplemented
    return _lowering(_gru_layer)(mb, x, state, weights, *options)


def _gru_layer(mb: MilBuilder, x: Var, state: Var, cell: Sequence[Var]) -> tuple[Var, Var]:
    weight_ih, weight_hh, *biases = (_reset_new_update(part) for part in cell)
    input_bias, bias = biases or (None, None)
    run, end = mb.gru(
        x=x,
        initial_h=state,
        weight_ih=weight_ih,
        weight_hh=weight_hh,
        bias=bias,
        input_bias=input_bias,
        reset_after=True,
        output_sequence=True,
    )
    return run, end


def _reset_new_update(part: Var) -> np.ndarray:
    """Torch's rows of a GRU, which are reset, update, new, in MIL's order."""
    reset, update, new = np.split(part.val, 3)
    return np.concatenate([reset, new, update])


def _lstm(
    mb: MilBuilder,
    x: Var,
    state: Sequence[Var],
    weights: Sequence[Var],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Lowered:
    if state[0].shape[-1] == state[1].shape[-1]:
        return NotImplemented
    return projected_lstm(mb, x, state, weights, has_biases, layers, bidirectional, batch_first)


TABLE = {
    aten.lstm.input: _lstm,
    aten.gru.input: _gru,
    aten.rnn_tanh.input: _rnn("tanh"),
    aten.rnn_relu.input: _rnn("relu"),
}

# Exported operator -> name of coremltools' lowering and number of results it adds.
STOCK_SEQUENCES = {aten.lstm.input: ("lstm", 3), aten.gru.input: ("gru", 2)}
