"""Fake values of operators on open sizes leave the sizes open."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim
from torch.nn import functional as F

import frontend
import passes
from frontend.fake_calls import fake_call, fake_constant

aten = torch.ops.aten


class Between(nn.Module):
    """A padding between two convolutions, whose image form has four axes."""

    def __init__(self, amounts):
        super().__init__()
        self.amounts = amounts
        self.first, self.last = nn.Conv1d(6, 8, 3), nn.Conv1d(8, 4, 3)

    def forward(self, x):  # (1, 6, n)
        return self.last(F.pad(self.first(x), self.amounts(x.shape[-1])))


SIZES = {"x": {2: Dim("n", min=6, max=32)}}


@pytest.mark.parametrize(
    "amounts", [lambda n: (3, 2), lambda n: (0, 40 - n), lambda n: ((-n) % 4, 1), lambda n: (0, -1)]
)
def test_a_padding_between_convolutions_takes_every_size(amounts):
    model = Between(amounts).eval()
    optimized = passes.optimize_for_ane(model, (torch.randn(1, 6, 9),), dynamic_shapes=SIZES)
    for size in (6, 8, 31):
        x = torch.randn(1, 6, size)
        torch.testing.assert_close(optimized(x), model(x))


def test_padding_makes_no_size_a_number():
    shapes = {"input": {2: Dim("n", min=5, max=32)}}
    program = frontend.capture(nn.ReLU(), (torch.randn(1, 6, 9),), dynamic_shapes=shapes)
    (x,) = (n.meta["val"] for n in program.graph.nodes if n.op == "placeholder")
    with x.fake_mode:
        image = x.unsqueeze(2)
    padded = fake_call(aten.pad.default, (image, [3, 2]), {}, x.fake_mode)
    assert str(padded.shape[3]) == f"{x.shape[2]} + 5" and not str(x.shape[2]).isdigit()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(3, 4),
        torch.ones(3, 4).T[1:],
        torch.ones(1, 4).expand(3, 4),
        torch.ones(0, 2),
        torch.tensor(2, dtype=torch.int8),
        torch.ones(2, 3, dtype=torch.complex64).conj(),
        nn.Parameter(torch.ones(2, dtype=torch.bfloat16), requires_grad=False),
    ],
)
def test_a_constant_is_told_by_its_sizes_strides_and_dtype(tensor):
    mode = FakeTensorMode()
    found, torchs = fake_constant(tensor, mode), mode.from_tensor(tensor, static_shapes=True)
    assert found.fake_mode is mode and type(found) is type(torchs)
    assert found.shape == tensor.shape and found.stride() == tensor.stride()
    assert (found.dtype, found.device) == (tensor.dtype, tensor.device)
    assert found.is_conj() == tensor.is_conj() and found.requires_grad == torchs.requires_grad
