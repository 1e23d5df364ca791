"""How far the numbers of an input may go."""

import pytest
import torch
from torch import nn

from frontend.capturing import capture
from lowering.precision.ends import end_calls, spans
from tests.lowering.precision.harmed_models import Angles, Function, Table

ids, table = torch.arange(3), torch.randn(9, 4)


def span_of(model, example, **given):
    program = capture(model, (example,))
    (name,) = program.graph_signature.user_inputs
    found = spans(program, {name: example}, {name: given["given"]} if given else {})
    return (found[name].low, found[name].high) if found else None


@pytest.mark.parametrize(
    ("model", "example", "expected"),
    [
        (nn.Embedding(12, 4), ids, (0, 11)),
        (Table(), ids, (0, 7)),
        (Function(lambda i: table[i]), ids, (0, 8)),
        (Function(lambda i: table.T[:, i.reshape(3)]), ids, (0, 8)),
        (Function(lambda i: table.index_select(0, i)), ids, (0, 8)),
        (Function(lambda i: table.gather(1, i[:, None])), ids, (0, 3)),
        (Angles(), ids, (0, 4095)),
        (Angles(), torch.tensor([1]), (0, 4095)),
        (Angles(), torch.tensor([7000]), (0, 7000)),
        (Angles(), torch.tensor([-3]), (-3, 4095)),
        # Flags, as a mask of tokens has them.
        (Function(lambda m: (1 - m.float()) * -1e4), torch.tensor([1, 1, 0]), None),
        # Times of diffusion models are whole numbers that become angles; other floats may be any.
        (Angles(), torch.tensor([7.0, 9.0]), (0, 4095)),
        (Angles(), torch.tensor([0.5, 9.0]), None),
        (Function(lambda x: x + 1), torch.tensor([7.0, 9.0]), None),
    ],
)
def test_spans(model, example, expected):
    assert span_of(model, example) == expected


def test_a_range_that_is_stated_counts():
    assert span_of(Angles(), ids, given=(0, 99)) == (0, 99)


def test_calls_at_the_ends_keep_distances():
    program = capture(Angles(), (ids + 2,))
    example = {"positions": ids + 2}
    high, low = end_calls(example, spans(program, example, {}))
    assert high.inputs["positions"].tolist() == [4093, 4094, 4095]
    assert low.inputs["positions"].tolist() == [0, 1, 2]
    assert "positions up to 4,095" in high.words and "positions from 0" in low.words
    (alone,) = end_calls({"positions": ids}, spans(program, {"positions": ids}, {}))
    assert alone.inputs["positions"].tolist() == [4093, 4094, 4095]
