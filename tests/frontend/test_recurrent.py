"""Recurrent layers stay one operator, whatever their length."""

import time

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn.utils.rnn import pack_padded_sequence

from frontend.capturing import capture
from frontend.recurrent import recurrent_layers_whole

aten = torch.ops.aten
KINDS = {nn.LSTM: aten.lstm.input, nn.GRU: aten.gru.input, nn.RNN: aten.rnn_tanh.input}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2, "bias": False}])
def test_one_operator_of_any_length(kind, options):
    layer = kind(3, 4, batch_first=True, **options).eval()
    tokens = Dim("tokens", min=2, max=64)
    program = capture(layer, (torch.randn(2, 5, 3),), dynamic_shapes=({1: tokens},))
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(KINDS[kind]) == 1
    x = torch.randn(2, 11, 3)
    expected, found = layer(x), program.module()(x)
    torch.testing.assert_close(found[0], expected[0])


def test_a_projection_has_its_own_width():
    layer = nn.LSTM(3, 4, proj_size=2, batch_first=True).eval()
    program = capture(layer, (torch.randn(2, 5, 3),))
    (node,) = program.graph.find_nodes(op="call_function", target=aten.lstm.input)
    assert [tuple(value.shape) for value in node.meta["val"]] == [(2, 5, 2), (1, 2, 2), (1, 2, 4)]


def test_long_sequences_are_not_unrolled():
    start = time.perf_counter()
    capture(nn.GRU(3, 4), (torch.randn(5000, 1, 3),))
    assert time.perf_counter() - start < 5


def test_torch_is_as_it_was():
    before = torch._VF.lstm
    with recurrent_layers_whole():
        assert torch._VF.lstm is not before
        packed = pack_padded_sequence(torch.randn(4, 2, 3), [4, 2])
        assert nn.LSTM(3, 4)(packed)[0].data.shape == (8, 4)  # with the padding
    assert torch._VF.lstm is before
