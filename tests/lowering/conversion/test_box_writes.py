"""Writes to a part of a tensor: one slice update of what is written, however nested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lowering import convert, load, make_state
from lowering.reference.model import LoadedModel

LAYERS, HEADS, TOKENS, WIDTH = 3, 2, 8, 4
X = torch.randn(HEADS, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
STACK = (LAYERS, HEADS, TOKENS, WIDTH)
# What a write of the whole tensor is made of.
WHOLE = {"tile", "scatter_nd", "scatter", "transpose"}


class Plain(nn.Module):
    """Writes to a tensor that is computed, by a function of it, the input and a position."""

    def __init__(self, write: Callable[[Tensor, Tensor, Tensor], Tensor | None]) -> None:
        super().__init__()
        self.write = write
        self.places = nn.Buffer(torch.tensor([3, 4, 5]))

    def forward(self, x: Tensor, pos: Tensor) -> Tensor:
        cache = torch.arange(float(np.prod(STACK))).reshape(STACK) + x
        written = self.write(cache, x, pos)
        return cache if written is None else written


class Stacked(nn.Module):
    """A cache of all layers in one buffer."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.cache = nn.Buffer(torch.zeros(STACK))

    def forward(self, x: Tensor, pos: Tensor) -> Tensor:
        places = pos + torch.arange(self.tokens)
        for layer in range(LAYERS):
            self.cache[layer, :, places] = x[:, : self.tokens] * (layer + 1)
            x = x + self.cache[layer]
        return x


class Layered(Stacked):
    """Whole layers, each from what it was."""

    def forward(self, x: Tensor, pos: Tensor) -> Tensor:
        for layer in range(LAYERS):
            self.cache[layer] = self.cache[layer] * 0.5 + x * pos
        return self.cache.sum(0)


def package(model: nn.Module, target: ct.target = ct.target.iOS18) -> LoadedModel:
    return load(
        convert(
            model,
            (X, torch.tensor([3])),
            minimum_deployment_target=target,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )
    )


def counts(model: LoadedModel) -> Counter[str]:
    return Counter(op.type for op in model.ops)


def given(pos: int, x: Tensor = X) -> dict[str, np.ndarray]:
    return {"x": x.numpy(), "pos": np.array([pos], np.int32)}


def layer(cache: Tensor, x: Tensor, pos: Tensor) -> None:
    cache[1] = x * 2


def fixed(cache: Tensor, x: Tensor, pos: Tensor) -> None:
    cache[-1, :, 2:4] = x[:, :2]


def deep(cache: Tensor, x: Tensor, pos: Tensor) -> None:
    cache[0, 1, -3:, 1:3] = x[1, :3, :2]


def one_number(cache: Tensor, x: Tensor, pos: Tensor) -> None:
    cache[2, 0, 5, 1] = x[0, 0, 0]


def at_position(cache: Tensor, x: Tensor, pos: Tensor) -> None:
    cache[1, :, pos] = x[:, :1]


def run_of_three(cache: Tensor, x: Tensor, pos: Tensor) -> None:
    cache[1, :, torch.arange(3) + pos] = x[:, :3]


def narrowed(cache: Tensor, x: Tensor, pos: Tensor) -> None:
    cache[1, :, 2:][:, pos] = x[:, :1]


def number_everywhere(cache: Tensor, x: Tensor, pos: Tensor) -> None:
    cache[:, :, pos] = 7.0


def twice(cache: Tensor, x: Tensor, pos: Tensor) -> None:
    cache[0, :, pos] = x[:, :1]
    cache[0] = cache[0] + cache[1]
    cache[2, 1] = cache[0, 0]


def copied(cache: Tensor, x: Tensor, pos: Tensor) -> Tensor:
    return cache.index_copy(2, pos, cache[..., :1, :])


@pytest.mark.parametrize(
    ("write", "updates"),
    [
        (layer, 1), (fixed, 1), (deep, 1), (one_number, 1), (at_position, 1), (run_of_three, 1),
        (narrowed, 1), (number_everywhere, 1), (twice, 3), (copied, 1),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)  # fmt: skip
def test_a_write_is_one_slice_update(write, updates):
    model = Plain(write)
    made = package(model)
    assert counts(made)["slice_update"] == updates
    assert not WHOLE & counts(made).keys()
    for pos in (3, 0, 5, -1 if write in (at_position, number_everywhere) else 4):
        (found,) = made(given(pos)).values()
        np.testing.assert_array_equal(found, model(X, torch.tensor([pos])))


def test_places_that_are_constants():
    def write(cache: Tensor, x: Tensor, pos: Tensor) -> None:
        cache[:, :, model.places] = x[:, :3]

    model = Plain(write)
    made = package(model)
    assert counts(made)["slice_update"] == 1
    assert not WHOLE & counts(made).keys()
    np.testing.assert_array_equal(next(iter(made(given(0)).values())), model(X, torch.tensor([0])))


def gaps(cache: Tensor, x: Tensor, pos: Tensor) -> None:
    cache[1, :, torch.stack([pos, pos + 2]).flatten()] = x[:, :2]


def steps(cache: Tensor, x: Tensor, pos: Tensor) -> None:
    cache[1, :, ::2] = x[:, :4]


def added(cache: Tensor, x: Tensor, pos: Tensor) -> None:
    cache.index_put_((torch.tensor(1), slice(None), pos)[:1], x, accumulate=True)


def crossed(cache: Tensor, x: Tensor, pos: Tensor) -> None:
    """What is put back was read elsewhere."""
    cache[0] = cache[1].index_put((torch.tensor([0, 1]), pos), x[0, :1])


@pytest.mark.parametrize("write", [gaps, steps, added, crossed])
def test_what_is_no_box_stays_right(write):
    model = Plain(write)
    made = package(model)
    for pos in (3, 0):
        (found,) = made(given(pos)).values()
        np.testing.assert_array_equal(found, model(X, torch.tensor([pos])))


@pytest.mark.parametrize(
    ("model", "positions"),
    [(Stacked(1), (0, 1, 7)), (Stacked(3), (0, 3, 5)), (Layered(1), (1, 2, 3))],
    ids=["one", "three", "layers"],
)
def test_a_state_is_written_where_it_stands(model, positions):
    made = package(model)
    assert counts(made)["slice_update"] == LAYERS
    assert not WHOLE & counts(made).keys()
    assert counts(made)["write_state"] == LAYERS  # each in place, none at the end
    state = make_state(made)
    model.cache.zero_()
    for pos in positions:
        x = X + pos
        (found,) = made(given(pos, x), state).values()
        want = model(x, torch.tensor([pos]))
        # A state keeps float16.
        np.testing.assert_allclose(found, want, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("write", [layer, fixed, deep, one_number, steps])
def test_older_systems_join_slices(write):
    model = Plain(write)
    made = package(model, ct.target.iOS17)
    if write is not steps:
        assert not (WHOLE | {"select"}) & counts(made).keys()
    (found,) = made(given(0)).values()
    np.testing.assert_array_equal(found, model(X, torch.tensor([0])))
