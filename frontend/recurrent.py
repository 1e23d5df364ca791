"""Recurrent layers of any length, captured as one operator each.

``torch.export`` runs ``aten.lstm`` on fake tensors by unrolling it over time, which takes long for
long sequences and fixes a dynamic one at the example's length. Here the call is recorded as an
operator that knows its result's shape; ``canonical`` gives it its ATen name back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from frontend import packed
from frontend.packed import Lengths

_aten = torch.ops.aten

_OPTIONS = (
    "Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, "
    "bool bidirectional, bool batch_first"
)
_LIBRARY = torch.library.Library("ane", "FRAGMENT")
_LIBRARY.define(f"lstm(Tensor input, Tensor[] hx, {_OPTIONS}) -> (Tensor, Tensor, Tensor)")
for _name in ("gru", "rnn_tanh", "rnn_relu"):
    _LIBRARY.define(f"{_name}(Tensor input, Tensor hx, {_OPTIONS}) -> (Tensor, Tensor)")

_ane = torch.ops.ane

ATEN_NAMES: Mapping[torch._ops.OpOverload, torch._ops.OpOverload] = {
    _ane.lstm.default: _aten.lstm.input,
    _ane.gru.default: _aten.gru.input,
    _ane.rnn_tanh.default: _aten.rnn_tanh.input,
    _ane.rnn_relu.default: _aten.rnn_relu.input,
}
"""Each operator recorded here, and the ATen one with the same arguments."""


def _sequence(x: Tensor, state: Tensor, bidirectional: bool) -> Tensor:
    return x.new_empty(*x.shape[:2], state.shape[-1] * (2 if bidirectional else 1))


def _lstm_shapes(
    x: Tensor, hx: Sequence[Tensor], params: object, has_biases: bool, num_layers: int,
    dropout: float, train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return _sequence(x, hx[0], bidirectional), torch.empty_like(hx[0]), torch.empty_like(hx[1])


def _rnn_shapes(
    x: Tensor, hx: Tensor, params: object, has_biases: bool, num_layers: int,
    dropout: float, train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _sequence(x, hx, bidirectional), torch.empty_like(hx)


for _op, _plain in ATEN_NAMES.items():
    _LIBRARY.impl(_op.overloadpacket.__name__, _plain, "CompositeExplicitAutograd")
    _shapes = _lstm_shapes if _plain is _aten.lstm.input else _rnn_shapes
    torch.library.register_fake(_op, _shapes, lib=_LIBRARY)


@contextmanager
def recurrent_layers_whole() -> Iterator[None]:
    """Inside, torch's recurrent functions are the operators of this file."""
    module: Any = torch._VF
    functions = {
        op.overloadpacket.__name__: _whole(op.overloadpacket.__name__) for op in ATEN_NAMES
    }
    functions |= {"_pack_padded_sequence": packed.pack, "_pad_packed_sequence": packed.pad}
    for name, function in functions.items():
        # Instance attributes; without them the module looks into torch's own table.
        setattr(module, name, function)
    try:
        yield
    finally:
        for name in functions:
            delattr(module, name)


def _whole(name: str) -> object:
    original, ours = getattr(torch._VF, name), getattr(_ane, name)

    def call(x: Tensor, second: Any, *rest: Any) -> Any:
        if isinstance(second, Lengths):
            return _packed(ours, x, second, *rest)
        # A packed sequence has its batch sizes before the state, which moves the weights.
        is_packed = isinstance(rest[1], list | tuple)
        return (original if is_packed else ours)(x, second, *rest)

    return call


def _packed(
    op: Callable[..., Any],
    data: Tensor, sizes: Lengths, hx: Any, params: Sequence[Tensor], has_biases: bool,
    num_layers: int, dropout: float, train: bool, bidirectional: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    is_lstm = isinstance(hx, tuple | list)

    def layer(x: Tensor, states: list[Tensor], own: Sequence[Tensor]) -> tuple[Tensor, ...]:
        start = states if is_lstm else states[0]
        return op(x, start, list(own), has_biases, 1, 0.0, False, False, True)

    states = list(hx) if is_lstm else [hx]
    return packed.run(layer, data, sizes, states, params, has_biases, num_layers, bidirectional)
