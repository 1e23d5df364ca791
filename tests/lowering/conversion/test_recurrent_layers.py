"""Recurrent layers of torch as MIL's own operators: how many there are, and what they compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lowering import convert, load, plan
from lowering.reference.model import LoadedModel

BOTH_WAYS = {"num_layers": 2, "bidirectional": True}
X = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))  # (B, S, C)
# What stands in a package instead of a recurrent operator, where it is unrolled.
UNROLLED = {"while_loop", "linear", "matmul", "sigmoid", "tanh"}


class Whole(nn.Module):
    """All results of a layer, from a state that is given where it is."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, end = self.layer(x, h)
        return y, end[0] if isinstance(end, tuple) else end


class Packed(nn.Module):
    """Sequences of their own lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(5, 4, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.layer(packed)[0], batch_first=True, total_length=6)[0]


def converted(
    model: nn.Module, *inputs: Tensor, target: ct.target = ct.target.iOS18, exact: bool = True
) -> LoadedModel:
    torch.manual_seed(0)
    precision = ct.precision.FLOAT32 if exact else ct.precision.FLOAT16
    return load(
        convert(
            model.eval(),
            inputs,
            minimum_deployment_target=target,
            compute_precision=precision,
            skip_model_load=True,
        )
    )


def counts(package: LoadedModel) -> Counter[str]:
    return Counter(op.type for op in package.ops)


def results(package: LoadedModel, *inputs: Tensor) -> list[np.ndarray]:
    return list(
        package(dict(zip(package.inputs, (x.numpy() for x in inputs), strict=True))).values()
    )


@pytest.mark.parametrize(
    ("layer", "kind", "count"),
    [
        (lambda: nn.GRU(5, 4), "gru", 1),
        (lambda: nn.GRU(5, 4, bias=False, batch_first=True), "gru", 1),
        (lambda: nn.GRU(5, 7, batch_first=True, **BOTH_WAYS), "gru", 4),
        (lambda: nn.RNN(5, 4, batch_first=True, **BOTH_WAYS), "rnn", 4),
        (lambda: nn.RNN(5, 4, nonlinearity="relu", num_layers=3), "rnn", 3),
        (lambda: nn.LSTM(5, 4, batch_first=True, **BOTH_WAYS), "lstm", 2),
    ],
    ids=["gru", "gru_no_bias", "gru_both", "rnn_both", "rnn_relu", "lstm_both"],
)
def test_a_layer_is_one_operator(layer: Callable[[], nn.RNNBase], kind: str, count: int):
    torch.manual_seed(1)
    model = Whole(layer())
    package = converted(model, X)
    assert counts(package)[kind] == count
    assert not UNROLLED & counts(package).keys()
    for found, want in zip(results(package, X), model(X), strict=True):
        np.testing.assert_allclose(found, want.detach(), rtol=1e-5, atol=1e-6)


def test_a_given_state_and_float16():
    model = Whole(nn.GRU(5, 4, batch_first=True, **BOTH_WAYS))
    h = torch.randn(4, 3, 4)
    for exact, bound in ((True, 1e-6), (False, 2e-3)):
        package = converted(model, X, h, exact=exact)
        assert counts(package)["gru"] == 4
        for found, want in zip(results(package, X, h), model(X, h), strict=True):
            np.testing.assert_allclose(found, want.detach(), rtol=1e-5, atol=bound)


def test_packed_sequences_are_operators_as_well():
    model, lengths = Packed(), torch.tensor([6, 2, 4])
    package = converted(model, X, lengths)
    assert counts(package)["gru"] == 2
    assert "while_loop" not in counts(package)
    for given in (lengths, torch.tensor([1, 6, 3])):
        x = package({"x": X.numpy(), "lengths": given.numpy().astype(np.int32)})
        (found,) = x.values()
        np.testing.assert_allclose(found, model(X, given).detach(), rtol=1e-5, atol=1e-6)


def test_older_systems_keep_the_loop():
    model = Whole(nn.GRU(5, 4))
    package = converted(model, X, target=ct.target.iOS17)
    assert counts(package)["while_loop"] == 1
    assert "gru" not in counts(package)
    for found, want in zip(results(package, X), model(X), strict=True):
        np.testing.assert_allclose(found, want.detach(), rtol=1e-5, atol=1e-6)


def test_a_plan_says_that_the_operator_is_not_proven_on_a_device():
    package = convert(
        Whole(nn.GRU(5, 4)).eval(),
        (X,),
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    (doubt,) = plan(package).doubts
    assert doubt.reason.rule == "op.gru_reset_after"
