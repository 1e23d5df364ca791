"""Packed sequences of unequal length, captured as padded ones.

Packing lays out the steps that exist, so its sizes follow from the lengths, which are data. While
an export records, a packed sequence holds all steps, those of the padding too, and the recurrent
layers see to it that these count for nothing: backward layers turn each sequence around within its
length, and final states are those at its last step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from frontend.errors import CaptureError

# Added to a gate before its sigmoid, this makes it 0 or 1: 1 / (1 + e^100) is 0 in float16, and
# below every rounding in float32.
_SHUT = 100.0


class PaddedLengthWarning(UserWarning):
    """A padded sequence stays as long as it was."""


@dataclass(frozen=True)
class Lengths:
    """Stands for the ``batch_sizes`` of a packed sequence whose data is (B * T, features).

    Attributes:
        lengths: int64 (B), the steps of each sequence.
        batch: B.
        steps: T, the longest length there may be.
    """

    lengths: Tensor
    batch: Any
    steps: Any

    @property
    def device(self) -> torch.device:
        """The CPU, as torch demands of batch sizes."""
        return torch.device("cpu")

    def __getitem__(self, step: int) -> object:
        """How many sequences have the first step: all; of later ones it follows from data."""
        if step != 0:
            raise CaptureError(
                "the number of packed sequences that have a step depends on their lengths",
                op=f"batch_sizes[{step}]",
                hint="unpack with pad_packed_sequence and work on the padded tensor",
            )
        return self.batch

    def size(self, axis: int) -> object:
        """The number of steps: asked for where ``pad_packed_sequence`` got no ``total_length``."""
        return _Longest(self.steps) if isinstance(self.steps, int) else self.steps


class _Longest(int):
    """A number of steps that eager mode would take from the lengths."""


def pack(x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Lengths]:
    """``torch._VF._pack_padded_sequence`` of (B, T, ...) or (T, B, ...)."""
    x = x if batch_first else x.transpose(0, 1)
    batch, steps = x.shape[:2]
    return x.reshape(batch * steps, *x.shape[2:]), Lengths(lengths, batch, steps)


def pad(
    data: Tensor, sizes: Lengths, batch_first: bool, value: float, total: int
) -> tuple[Tensor, Tensor]:
    """``torch._VF._pad_packed_sequence``: (B, T, ...) or (T, B, ...), and the lengths."""
    x = data.reshape(sizes.batch, sizes.steps, *data.shape[1:])
    exists = _exists(sizes).reshape(sizes.batch, sizes.steps, *[1] * (x.ndim - 2))
    x = torch.where(exists, x, torch.full((), value, dtype=x.dtype))
    if isinstance(total, _Longest):
        warnings.warn(
            f"an unpacked sequence keeps all {sizes.steps} steps; eager mode cuts it to the "
            "longest one. Give pad_packed_sequence a total_length to have both alike",
            PaddedLengthWarning,
            stacklevel=4,
        )
    elif total > sizes.steps:
        widths = [0, 0] * (x.ndim - 2) + [0, total - sizes.steps]
        x = torch.nn.functional.pad(x, widths, value=value)
    return (x if batch_first else x.transpose(0, 1)), sizes.lengths


def run(
    layer: Callable[..., tuple[Tensor, ...]],
    data: Tensor,
    sizes: Lengths,
    states: Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
) -> tuple[Tensor, ...]:
    """All layers of a packed sequence.

    Args:
        layer: runs one layer in one direction over (B, T, F), batch first: from input, states
            and weights to the output and the final states.
        data: (B * T, F).
        sizes: the lengths.
        states: initial ones, (layers * directions, B, H) each.
        params: weights of all layers and directions.
        has_biases: whether biases are among them.
        num_layers: layers.
        bidirectional: whether there are two directions.

    Returns:
        The output, (B * T, directions * H), and the final states.
    """
    directions = 2 if bidirectional else 1
    count = len(params) // (num_layers * directions)
    x = data.reshape(sizes.batch, sizes.steps, -1)
    turned = _turned(sizes)
    finals: list[list[Tensor]] = [[] for _ in states]
    for index in range(num_layers):
        outputs = []
        for direction in range(directions):
            place = index * directions + direction
            own = params[place * count : (place + 1) * count]
            initial = [state[place : place + 1] for state in states]
            given = _taken(x, turned) if direction else x
            y = layer(given, initial, own)[0]
            finals[0].append(_last(y, sizes))
            if len(states) == 2:
                finals[1].append(_last_cell(layer, given, sizes, initial, own, has_biases))
            outputs.append(_taken(y, turned) if direction else y)
        x = torch.cat(outputs, -1) if bidirectional else outputs[0]
    return x.reshape(sizes.batch * sizes.steps, -1), *(torch.cat(each, 0) for each in finals)


def _exists(sizes: Lengths) -> Tensor:
    """bool (B, T): whether the step is one of the sequence's."""
    return torch.arange(sizes.steps)[None] < sizes.lengths[:, None]


def _turned(sizes: Lengths) -> Tensor:
    """int64 (B, T): each sequence backwards within its length, the padding in place."""
    steps = torch.arange(sizes.steps)[None]
    return torch.where(_exists(sizes), sizes.lengths[:, None] - 1 - steps, steps)


def _taken(x: Tensor, steps: Tensor) -> Tensor:
    return x.gather(1, steps[..., None].expand(-1, -1, x.shape[-1]))


def _last(y: Tensor, sizes: Lengths) -> Tensor:
    """(B, T, H) -> (1, B, H), at each sequence's last step."""
    return _taken(y, sizes.lengths[:, None] - 1).transpose(0, 1)


def _last_cell(
    layer: Callable[..., tuple[Tensor, ...]],
    x: Tensor,
    sizes: Lengths,
    initial: Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
) -> Tensor:
    """An LSTM's cell after each sequence's last step, (1, B, H).

    One more input feature, which is 1 in the padding, shuts the input gate and opens the forget
    gate: the cell stays as it is to the end. Where nobody reads it, none of this is kept.
    """
    padding = (~_exists(sizes)).to(x.dtype)[..., None]
    width = params[0].shape[0] // 4  # gates: input, forget, cell, output
    gates = torch.arange(4 * width) // width
    column = torch.where(gates == 0, -_SHUT, torch.where(gates == 1, _SHUT, 0.0))
    weight = torch.cat([params[0], column[:, None].to(params[0].dtype)], 1)
    return layer(torch.cat([x, padding], -1), initial, [weight, *params[1:]])[2]
