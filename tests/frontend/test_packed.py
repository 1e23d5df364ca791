"""Packed sequences: the padding counts for nothing, whatever the lengths."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from frontend.capturing import capture
from frontend.errors import CaptureError
from frontend.packed import PaddedLengthWarning

LENGTHS = [[10, 7, 3], [2, 10, 1], [5, 5, 10], [10, 10, 10]]


class Packed(nn.Module):
    def __init__(self, layer, *, total=True, is_sorted=False, value=0.0):
        super().__init__()
        self.layer, self.total, self.value, self.is_sorted = layer, total, value, is_sorted

    def forward(self, x, lengths):
        first = self.layer.batch_first
        packed = pack_padded_sequence(x, lengths, first, enforce_sorted=self.is_sorted)
        y, states = self.layer(packed)
        total = x.shape[1 if first else 0] if self.total is True else self.total or None
        y, again = pad_packed_sequence(y, first, self.value, total)
        return y, states, again


def layer(kind, **options):
    torch.manual_seed(0)
    return kind(8, 16, **{"batch_first": True, **options}).eval()


def assert_same(model, x, lengths):
    program = capture(model, (x, torch.tensor(lengths[0]))).module()
    for each in map(torch.tensor, lengths):
        found, expected = (
            torch.utils._pytree.tree_leaves(run(x, each)) for run in (program, model)
        )
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_any_lengths(kind, options):
    assert_same(Packed(layer(kind, **options)), torch.randn(3, 10, 8), LENGTHS)


def test_time_first_and_sorted():
    lengths = [[10, 7, 3], [10, 2, 1]]
    model = Packed(layer(nn.LSTM, batch_first=False), is_sorted=True)
    assert_same(model, torch.randn(10, 3, 8), lengths)


def test_without_biases_and_with_a_projection():
    model = Packed(layer(nn.LSTM, bias=False, proj_size=4))
    assert_same(model, torch.randn(3, 10, 8), LENGTHS)


def test_padded_to_more_steps_with_another_value():
    assert_same(Packed(layer(nn.GRU), total=12, value=-1.0), torch.randn(3, 10, 8), LENGTHS)


def test_lengths_that_are_a_list():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer(nn.GRU)

        def forward(self, x):
            packed = pack_padded_sequence(x, [6, 4], batch_first=True)
            return self.layer(packed)[1]

    model, x = Listed(), torch.randn(2, 6, 8)
    (found,) = capture(model, (x,)).module()(x)
    torch.testing.assert_close(found, model(x), rtol=1e-5, atol=1e-6)


def test_without_a_total_length_the_padding_stays():
    model, x = Packed(layer(nn.LSTM), total=False), torch.randn(3, 10, 8)
    with pytest.warns(PaddedLengthWarning, match="total_length"):
        program = capture(model, (x, torch.tensor([10, 7, 3]))).module()
    lengths = torch.tensor([6, 2, 5])
    found, expected = program(x, lengths)[0], model(x, lengths)[0]
    torch.testing.assert_close(found[:, :6], expected, rtol=1e-5, atol=1e-6)
    assert not found[:, 6:].any()


def test_a_total_length_is_no_reason_to_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error", PaddedLengthWarning)
        capture(Packed(layer(nn.GRU)), (torch.randn(3, 10, 8), torch.tensor([10, 7, 3])))


def test_final_cells_that_nobody_reads_cost_nothing():
    class Output(Packed):
        def forward(self, x, lengths):
            return super().forward(x, lengths)[0]

    program = capture(Output(layer(nn.LSTM)), (torch.randn(3, 10, 8), torch.tensor([10, 7, 3])))
    kept = program.graph.find_nodes(op="call_function", target=torch.ops.aten.lstm.input)
    assert len(kept) == 1


def test_later_batch_sizes_are_refused():
    class Asks(nn.Module):
        def forward(self, x, lengths):
            packed = pack_padded_sequence(x, lengths, True, enforce_sorted=False)
            return packed.data * packed.batch_sizes[1]

    with pytest.raises(CaptureError, match="depends on their lengths"):
        capture(Asks(), (torch.randn(3, 10, 8), torch.tensor([10, 7, 3])))


def test_torchs_own_functions_are_back():
    assert "_pack_padded_sequence" not in vars(torch._VF)
