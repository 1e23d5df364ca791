"""The operators whose time in the interpreter is held against eager torch: modules and inputs.

Sizes are such that eager torch takes a tenth of a millisecond or more, except where what is asked
is the cost of a single small operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Operators of the chain whose cost is all in the interpreter, not in what they compute.
TINY_OPERATORS = 928
_LAYERS, _HEADS, _TOKENS, _WIDTH = 6, 8, 256, 64


@dataclass(frozen=True)
class OperatorRow:
    """One thing to measure.

    Attributes:
        build: makes the module.
        inputs: what it is called with.
        target: how much slower than eager torch the interpreter may be.
    """

    build: Callable[[], nn.Module]
    inputs: tuple[Tensor, ...]
    target: float = 2.0


class _Of(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> object:
        return self.function(*inputs)


class _Recurrent(nn.Module):
    """A recurrent layer, its sequence alone."""

    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.layer = kind(128, 256, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)[0]
        return result


class _Decode(nn.Module):
    """One token against a cache of all layers in one tensor, written where the token belongs."""

    def forward(self, x: Tensor, cache: Tensor, position: Tensor) -> Tensor:
        cache = cache + 0.0
        for layer in range(_LAYERS):
            cache[layer, :, position] = x
            scores = (x @ cache[layer].transpose(-1, -2) * _WIDTH**-0.5).softmax(-1)
            x = (x + scores @ cache[layer]) * 0.5
        return x


class _Tiny(nn.Module):
    """A chain of sums of eight numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = nn.Buffer(torch.linspace(0.1, 0.9, TINY_OPERATORS * 8).reshape(-1, 8))

    def forward(self, x: Tensor) -> Tensor:
        for at in range(TINY_OPERATORS // 2):
            x = (x + self.numbers[at]).tanh()
        return x


def _x(*shape: int) -> Tensor:
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))
    return numbers.half().float()


def _places(high: int, *shape: int) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(0)).int()


def _of(function: Callable[..., Any], *inputs: Tensor, target: float = 2.0) -> OperatorRow:
    return OperatorRow(lambda: _Of(function), inputs, target)


IMAGE, ROWS, SIGNAL = _x(1, 32, 64, 64), _x(1, 256, 512), _x(1, 64, 1024)
HEADS = _x(1, _HEADS, _TOKENS, _WIDTH)
MATRIX = 1.15

ROWS_BY_NAME: Mapping[str, OperatorRow] = {
    "gru": OperatorRow(lambda: _Recurrent(nn.GRU), (_x(1, 64, 128),)),
    "lstm": OperatorRow(lambda: _Recurrent(nn.LSTM), (_x(1, 64, 128),)),
    "top-k of 50,257": _of(lambda x: x.topk(40)[0], _x(1, 50_257)),
    "top-k of rows": _of(lambda x: x.topk(8)[0], ROWS),
    "sort": _of(lambda x: x.sort(-1)[0], ROWS),
    "argmax": _of(lambda x: x.argmax(-1), ROWS),
    "resize nearest": _of(lambda x: F.interpolate(x, scale_factor=2), IMAGE),
    "resize bilinear": _of(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), IMAGE),
    "softmax output": _of(lambda x: (x * 8).softmax(-1), ROWS),
    "gather": _of(lambda x, i: x[:, i], ROWS, _places(256, 256)),
    "gather along axis": _of(lambda x, i: x.gather(1, i.long()), ROWS, _places(256, 1, 256, 512)),
    "embedding": OperatorRow(lambda: nn.Embedding(4096, 256), (_places(4096, 1, 512),)),
    "scatter": _of(lambda x, i: x.scatter_add(1, i.long(), x), ROWS, _places(256, 1, 256, 512)),
    "cumsum": _of(lambda x: x.cumsum(1), ROWS),
    "one-hot": _of(lambda i: F.one_hot(i.long(), 1024).float(), _places(1024, 1, 256)),
    "conv 1d": OperatorRow(lambda: nn.Conv1d(64, 64, 5, padding=2), (SIGNAL,)),
    "conv 2d": OperatorRow(lambda: nn.Conv2d(32, 64, 3, padding=1), (IMAGE,), MATRIX),
    "conv depthwise": OperatorRow(lambda: nn.Conv2d(32, 32, 3, padding=1, groups=32), (IMAGE,)),
    "conv grouped": OperatorRow(lambda: nn.Conv2d(32, 64, 3, padding=1, groups=4), (IMAGE,)),
    "conv transposed": OperatorRow(lambda: nn.ConvTranspose2d(32, 16, 2, stride=2), (IMAGE,)),
    "max pool": _of(lambda x: F.max_pool2d(x, 3, 2, 1), IMAGE),
    "average pool": _of(lambda x: F.avg_pool2d(x, 2), IMAGE),
    "layer norm": OperatorRow(lambda: nn.LayerNorm(512), (ROWS,)),
    "group norm": OperatorRow(lambda: nn.GroupNorm(8, 32), (IMAGE,)),
    "einsum": _of(lambda x: torch.einsum("bhqc,bhkc->bhqk", x, x), HEADS),
    "matmul": _of(lambda x: x @ x.transpose(-1, -2), _x(1, 512, 512), target=MATRIX),
    "linear": OperatorRow(lambda: nn.Linear(512, 1024), (ROWS,), MATRIX),
    "attention": _of(lambda x: F.scaled_dot_product_attention(x, x, x), HEADS),
    "gelu": _of(F.gelu, ROWS),
    "silu": _of(F.silu, ROWS),
    "sum": _of(lambda x: x.sum(-1), ROWS),
    "mean over positions": _of(lambda x: x.mean((2, 3)), IMAGE),
    "sums of floats": _of(lambda x: x * 2 + x, ROWS),
    "sums of integers": _of(lambda i: i * 2 + i, _places(999, 256, 512)),
    "cast": _of(lambda x: x.int(), ROWS),
    "concat": _of(lambda x: torch.cat([x, x * 2], -1), ROWS),
    "split": _of(lambda x: x.split(128, -1), ROWS),
    "slice": _of(lambda x: x[:, 1:-1, ::2], ROWS),
    "pad": _of(lambda x: F.pad(x, (1, 1, 1, 1)), IMAGE),
    "tile": _of(lambda x: x.repeat(1, 2, 1), ROWS),
    "transpose": _of(lambda x: x.transpose(1, 2) * 2, ROWS),
    "reshape": _of(lambda x: x.reshape(1, 512, 256) * 2, ROWS),
    "decode step, stacked cache": OperatorRow(
        _Decode,
        (
            _x(_HEADS, 1, _WIDTH),
            _x(_LAYERS, _HEADS, _TOKENS, _WIDTH),
            torch.tensor([7], dtype=torch.int32),
        ),
    ),
}
TINY = OperatorRow(_Tiny, (torch.zeros(1, 8),))
PALETTED = OperatorRow(
    lambda: nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(8))), (_x(1, 1024),)
)
