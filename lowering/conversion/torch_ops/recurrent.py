"""Recurrent layers. coremltools 9.0 knows them from TorchScript but not from torch.export.

The LSTM and GRU of the TorchScript route are right; they are reached under the name of the
exported operator (the same gap: pytorch/executorch#4090).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from coremltools.converters.mil.mil import Var

from lowering.conversion.builder import Lowered, MilBuilder
from lowering.conversion.torch_ops.projected_lstm import projected_lstm

aten = torch.ops.aten


def _rnn(activation: str) -> Callable[..., tuple[Var, Var]]:
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
        per_cell = 4 if has_biases else 2
        cells = [weights[i : i + per_cell] for i in range(0, len(weights), per_cell)]
        directions = 2 if bidirectional else 1
        x = mb.transpose(x=x, perm=[1, 0, 2]) if batch_first else x  # (S, B, C)
        last = []
        for layer in range(layers):
            runs = []
            for direction in range(directions):
                cell = layer * directions + direction
                steps = mb.reverse(x=x, axes=[0]) if direction else x
                start = mb.slice_by_size(x=state, begin=[cell, 0, 0], size=[1, -1, -1])
                run, end = mb.rnn(
                    x=steps,
                    initial_h=mb.squeeze(x=start, axes=[0]),
                    weight_ih=cells[cell][0],
                    weight_hh=cells[cell][1],
                    bias=mb.add(x=cells[cell][2], y=cells[cell][3]) if has_biases else None,
                    output_sequence=True,
                    activation=activation,
                )
                runs.append(mb.reverse(x=run, axes=[0]) if direction else run)
                last.append(end)
            x = mb.concat(values=runs, axis=2) if bidirectional else runs[0]
        x = mb.transpose(x=x, perm=[1, 0, 2]) if batch_first else x
        return x, mb.stack(values=last, axis=0)

    return lower


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


def _stock(mb: MilBuilder, *_: object) -> Lowered:
    return NotImplemented


TABLE = {
    aten.lstm.input: _lstm,
    aten.gru.input: _stock,
    aten.rnn_tanh.input: _rnn("tanh"),
    aten.rnn_relu.input: _rnn("relu"),
}

# Exported operator -> name of coremltools' lowering and number of results it adds.
STOCK_SEQUENCES = {aten.lstm.input: ("lstm", 3), aten.gru.input: ("gru", 2)}
