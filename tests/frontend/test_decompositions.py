"""Operators that capture takes apart beyond torch's own table."""

import pytest
import torch
from torch import nn

from frontend.capturing import capture
from frontend.decompositions import grouped_mm

aten = torch.ops.aten
G = torch.Generator().manual_seed(0)


def rand(*shape):
    return torch.randn(*shape, generator=G)


X, WEIGHT = rand(8, 8), rand(3, 8, 16)
ENDS = [[2, 5, 8], [0, 0, 8], [3, 3, 6], [8, 8, 8]]


def looped(x, weight, ends):
    found = torch.zeros(x.shape[0], weight.shape[2])
    start = 0
    for expert, end in enumerate(ends.tolist()):
        found[start:end] = x[start:end] @ weight[expert]
        start = end
    return found


class Calls(nn.Module):
    def __init__(self, op):
        super().__init__()
        self.op = op
        self.weight = nn.Parameter(WEIGHT)

    def forward(self, x, ends):
        return self.op(x, self.weight, ends)


@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_each_row_meets_its_expert(ends):
    ends = torch.tensor(ends, dtype=torch.int32)
    torch.testing.assert_close(grouped_mm(X, WEIGHT, ends), looped(X, WEIGHT, ends))


def test_what_the_other_experts_make_of_a_row_does_not_leak():
    weight = WEIGHT.clone()
    weight[0] = float("inf")
    ends = torch.tensor([0, 5, 8])
    torch.testing.assert_close(grouped_mm(X, weight, ends), looped(X, weight, ends))


def transformers_op():
    pytest.importorskip("transformers.integrations.moe")
    return torch.ops.transformers.grouped_mm_fallback.default


# torch's own operator takes bfloat16 only; captured it runs in float32.
@pytest.mark.parametrize(
    ("op", "dtype"),
    [(lambda: aten._grouped_mm.default, torch.bfloat16), (transformers_op, torch.float32)],
)
def test_captured_mixtures_of_experts_are_plain_products(op, dtype):
    model, x = Calls(op()).to(dtype), X.to(dtype)
    program = capture(model, (x, torch.tensor(ENDS[0], dtype=torch.int32)))
    called = {n.target for n in program.graph.nodes if n.op == "call_function"}
    assert aten.matmul.default in called and op() not in called
    for ends in ENDS:
        ends = torch.tensor(ends, dtype=torch.int32)
        (found,) = program.module()(x, ends)
        expected = looped(x.float(), model.weight.float(), ends)
        torch.testing.assert_close(found, expected.to(dtype))


@pytest.mark.parametrize("name", ["dist", "ldexp"])
def test_torchs_own_decompositions(name):
    class Model(nn.Module):
        def forward(self, x, y):
            return getattr(torch, name)(x, y)

    program = capture(Model(), (X, rand(8, 8)))
    called = {n.target for n in program.graph.nodes if n.op == "call_function"}
    assert getattr(aten, name) not in {op.overloadpacket for op in called}
    y = rand(8, 8)
    (found,) = program.module()(X, y)
    torch.testing.assert_close(found, Model()(X, y))


class Strided(nn.Module):
    def __init__(self, *arguments):
        super().__init__()
        self.arguments = arguments

    def forward(self, x):
        return (x + 1).as_strided(*self.arguments) * 2


@pytest.mark.parametrize(
    "arguments",
    [
        ((3, 4), (8, 1)),
        ((3, 3, 2, 4), (16, 8, 4, 1)),
        ((5, 4, 2), (8, 2, 3), 3),
        ((7,), (0,)),
        ((), ()),
    ],
    ids=str,
)
def test_strided_views_of_contiguous_tensors(arguments):
    model = Strided(*arguments)
    program = capture(model, (X,))
    assert not program.graph.find_nodes(op="call_function", target=aten.as_strided.default)
    (found,) = program.module()(X)
    torch.testing.assert_close(found, model(X), rtol=0, atol=0)


def test_strided_views_of_a_transposed_tensor():
    class Turned(nn.Module):
        def forward(self, x):
            return (x + 1).T.as_strided((3, 4), (1, 8))

    program = capture(Turned(), (X,))
    assert not program.graph.find_nodes(op="call_function", target=aten.as_strided.default)
    torch.testing.assert_close(program.module()(X)[0], Turned()(X), rtol=0, atol=0)


def test_strided_views_of_part_of_a_memory_stay():
    class Part(nn.Module):
        def forward(self, x):
            return x[1:].as_strided((3, 4), (1, 8))

    program = capture(Part(), (X,))
    assert program.graph.find_nodes(op="call_function", target=aten.as_strided.default)
