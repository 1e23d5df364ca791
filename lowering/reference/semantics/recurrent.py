"""Recurrent layers over ``x (S, B, I)``: sequence, batch, features."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lowering.reference.binding import Semantics
from lowering.reference.errors import ExecutionError

# With the constants that the layers fix: scaled_tanh is plain tanh, linear passes through.
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "hard_sigmoid": lambda x: torch.clamp(0.2 * x + 0.5, 0.0, 1.0),
    "linear": lambda x: x,
    "relu": torch.relu,
    "scaled_tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


# Of gates, of the cell, and of what the cell gives.
_TORCH_LSTM = (torch.sigmoid, torch.tanh, torch.tanh)


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    if name not in _ACTIVATIONS:
        raise ExecutionError(
            "unknown activation of a recurrent layer",
            expected=f"one of {', '.join(_ACTIVATIONS)}",
            found=name,
        )
    return _ACTIVATIONS[name]


def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """Elman layer: ``h = activation(W_ih x + W_hh h + b)``; all states and the last one."""
    act = _activation(activation)
    hidden, states = initial_h, []
    for step in F.linear(_ordered(x, direction), weight_ih, bias):
        hidden = act(step + F.linear(hidden, weight_hh))
        states.append(hidden)
    return _outputs(states, output_sequence), hidden


def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
    input_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gated recurrent unit; gates are ordered reset, new, update.

    ``bias`` belongs to the hidden side if there is an ``input_bias``. With ``reset_after`` the
    reset gate scales ``W_hh h + b``, else it scales ``h``.
    """
    gate, act = _activation(recurrent_activation), _activation(activation)
    size = initial_h.shape[-1]
    hidden_bias = torch.zeros(3 * size) if bias is None else bias
    reset_w, new_w, update_w = weight_hh.split(size)
    reset_b, new_b, update_b = hidden_bias.split(size)
    hidden, states = initial_h, []
    for step in F.linear(_ordered(x, direction), weight_ih, input_bias):
        reset_x, new_x, update_x = step.split(size, -1)
        if reset_after:  # one product for all gates
            reset_h, new_h, update_h = F.linear(hidden, weight_hh, bias).split(size, -1)
            update = gate(update_x + update_h)
            new = act(new_x + gate(reset_x + reset_h) * new_h)
            hidden = (1 - update) * new + update * hidden
            states.append(hidden)
            continue
        reset = gate(reset_x + F.linear(hidden, reset_w, reset_b))
        update = gate(update_x + F.linear(hidden, update_w, update_b))
        new = act(new_x + F.linear(reset * hidden, new_w, new_b))
        hidden = (1 - update) * new + update * hidden
        states.append(hidden)
    return _outputs(states, output_sequence), hidden


def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Long short-term memory; gates are ordered input, forget, output, cell.

    States are ``(B, H)``, both directions side by side ``(B, 2H)`` when bidirectional.
    """
    activations = tuple(
        _activation(name) for name in (recurrent_activation, cell_activation, activation)
    )
    if direction != "bidirectional":
        return _lstm(
            x,
            initial_h,
            initial_c,
            weight_ih,
            weight_hh,
            bias,
            peephole,
            direction,
            output_sequence,
            activations,
            clip,
        )
    assert weight_ih_back is not None
    assert weight_hh_back is not None
    h_forward, h_back = initial_h.chunk(2, -1)
    c_forward, c_back = initial_c.chunk(2, -1)
    forward = _lstm(
        x,
        h_forward,
        c_forward,
        weight_ih,
        weight_hh,
        bias,
        peephole,
        "forward",
        output_sequence,
        activations,
        clip,
    )
    back = _lstm(
        x,
        h_back,
        c_back,
        weight_ih_back,
        weight_hh_back,
        bias_back,
        peephole_back,
        "reverse",
        output_sequence,
        activations,
        clip,
    )
    # Side by side the sequences run in the order of time.
    y = torch.cat([forward[0], back[0].flip(0)], -1)
    return y, torch.cat([forward[1], back[1]], -1), torch.cat([forward[2], back[2]], -1)


def _lstm(
    x: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    peephole: Tensor | None,
    direction: str,
    output_sequence: bool,
    activations: tuple[Callable[[Tensor], Tensor], ...],
    clip: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    gate, cell_act, act = activations
    size = hidden.shape[-1]
    if activations == _TORCH_LSTM and peephole is None and clip is None:
        return _torch_lstm(
            _ordered(x, direction), hidden, cell, weight_ih, weight_hh, bias, output_sequence
        )
    peep_i, peep_f, peep_o = peephole.split(size) if peephole is not None else (None,) * 3
    states = []
    for step in F.linear(_ordered(x, direction), weight_ih, bias):
        gates = step + F.linear(hidden, weight_hh)
        if peep_o is None:  # all gates at once
            in_gate, forget, out = gate(gates[:, : 3 * size]).split(size, -1)
        else:
            assert peep_i is not None
            assert peep_f is not None
            in_gate, forget, out = gates[:, : 3 * size].split(size, -1)
            in_gate, forget = gate(in_gate + peep_i * cell), gate(forget + peep_f * cell)
        cell = forget * cell + in_gate * cell_act(gates[:, 3 * size :])
        if clip is not None:
            cell = cell.clamp(-clip, clip)
        if peep_o is not None:
            out = gate(out + peep_o * cell)
        hidden = out * act(cell)
        states.append(hidden)
    return _outputs(states, output_sequence), hidden, cell


def _torch_lstm(
    x: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    output_sequence: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The layer with torch's activations: its kernel takes half the time (*measured*)."""
    weights = [_in_torch_order(weight_ih), _in_torch_order(weight_hh)]
    if bias is not None:
        weights += [_in_torch_order(bias), torch.zeros_like(bias)]
    state = (hidden.unsqueeze(0), cell.unsqueeze(0))
    y, hidden, cell = torch.lstm(x, state, weights, bias is not None, 1, 0.0, False, False, False)
    return (y if output_sequence else y[-1:]), hidden.squeeze(0), cell.squeeze(0)


def _in_torch_order(gates: Tensor) -> Tensor:
    """Rows of the gates input, forget, output, cell as input, forget, cell, output."""
    in_gate, forget, out, cell = gates.chunk(4)
    return torch.cat([in_gate, forget, cell, out])


def _ordered(x: Tensor, direction: str) -> Tensor:
    return x.flip(0) if direction == "reverse" else x


def _outputs(states: list[Tensor], output_sequence: bool) -> Tensor:
    """States in the order in which they were computed, or the last one."""
    return torch.stack(states) if output_sequence else states[-1].unsqueeze(0)


TABLE: dict[str, Semantics] = {"gru": gru, "lstm": lstm, "rnn": rnn}
