"""Captured programs hold nothing that computes nothing."""

import pytest
import torch
from torch import nn

from frontend.capturing import capture

aten = torch.ops.aten
X = torch.randn(2, 10, 3, generator=torch.Generator().manual_seed(0))


def write_nothing(x):
    x = x.clone()
    x[:, -8:0, :] = 0
    x[1:1] = 2.0
    return x + 1


MODELS = {
    "empty_writes": (write_nothing, [aten.add.Tensor]),
    "empty_parts": (
        lambda x: torch.cat([x[:, 3:3], x, torch.tensor([]), x], 1),
        [aten.cat.default],
    ),
    "empty_part_of_another_dtype": (
        lambda x: torch.cat([x[:, 3:3], (x > 0).int()], 1),
        [aten.slice.Tensor, aten.gt.Scalar, aten._to_copy.default, aten.cat.default],
    ),
    "views_and_copies": (
        lambda x: x.view(20, 3).contiguous().clone().detach().to(torch.float32) * 2,
        [aten.reshape.default, aten.mul.Tensor],
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_computes_nothing_is_gone(name):
    function, left = MODELS[name]

    class Model(nn.Module):
        def forward(self, x):
            return function(x)

    program = capture(Model(), (X,))
    assert [node.target for node in program.graph.nodes if node.op == "call_function"] == left
    (found,) = program.module()(X)
    torch.testing.assert_close(found, function(X), rtol=0, atol=0)


def test_checks_that_keep_an_order_are_gone():
    class Model(nn.Module):
        def forward(self, x):
            return torch.linalg.inv(x)

    square = X[:, :3] + 4 * torch.eye(3)
    program = capture(Model(), (square,))
    assert not program.graph_signature.input_tokens
    assert [n.name for n in program.graph.find_nodes(op="placeholder")] == ["x"]
    (found,) = program.module()(square)
    torch.testing.assert_close(found, torch.linalg.inv(square))
