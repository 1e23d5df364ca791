"""Attention without dropout draws nothing; operators that draw are told apart."""

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from frontend.capturing import capture
from frontend.random_calls import draws, draws_random

aten = torch.ops.aten


@pytest.mark.parametrize("training, expected", [(True, True), (False, False)])
def test_recurrent_layers_draw_in_training_only(training, expected):
    x, state = torch.randn(3, 1, 4), torch.zeros(1, 1, 4)
    args = (x, state, [], True, 1, 0.5, training, False, False)
    assert draws(aten.gru.input, args, {}) is expected
    assert not draws(aten.gru.input, (*args[:5], 0.0, True, False, False), {})


@pytest.mark.parametrize(
    "target, args, kwargs, expected",
    [
        (aten.scaled_dot_product_attention.default, (), {}, False),
        (aten.scaled_dot_product_attention.default, (None, 0.0), {}, False),
        (aten.scaled_dot_product_attention.default, (None, 0.1), {}, True),
        (aten.scaled_dot_product_attention.default, (), {"dropout_p": 0.5}, True),
        (aten.rand_like.default, None, {}, True),
        (aten.relu.default, None, {}, False),
    ],
)
def test_draws_random(target, args, kwargs, expected):
    graph = fx.Graph()
    x = graph.placeholder("x")
    call = graph.call_function(target, (x,) if args is None else (x, x, x, *args), kwargs)
    assert draws_random(call) is expected
    assert not draws_random(x)


def test_attention_may_stand_beside_a_branch():
    class Model(nn.Module):
        def forward(self, x):
            y = x * 2 if x.sum() > 0 else x
            return F.scaled_dot_product_attention(y, x, x)

    x = torch.randn(1, 2, 4, 8)
    program = capture(Model(), (x,)).module()
    for value in (x.abs(), -x.abs()):
        torch.testing.assert_close(program(value)[0], Model()(value))
