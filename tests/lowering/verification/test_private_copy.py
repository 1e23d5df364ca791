"""A private copy is another module with the same numbers, in one precision, on the CPU."""

import copy

import pytest
import torch
from torch import nn

from lowering.verification.original import private_copy


class Tied(nn.Module):
    """One weight under two names, integers, and a buffer that calls write."""

    def __init__(self, dtype):
        super().__init__()
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.other.weight = self.one.weight
        self.to(dtype)
        self.ids = nn.Parameter(torch.arange(4), requires_grad=False)
        self.count = nn.Buffer(torch.zeros(1, dtype=dtype))

    def forward(self, x):
        self.count += 1
        return self.other(self.one(x)) + self.count


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("half", [False, True])
def test_the_copy_is_cast_and_private(dtype, half):
    torch.manual_seed(0)
    model = Tied(dtype)
    with torch.no_grad():
        model.one.weight[0, 0] = 1 + 2**-11 + 2**-30  # rounds another way where it rounds once
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copied = private_copy(model, half=half)
    expected = copy.deepcopy(model).float()
    expected = expected.half() if half else expected
    assert copied.other.weight is copied.one.weight and not copied.training
    for name, value in expected.state_dict().items():
        found = copied.state_dict()[name]
        assert found.dtype is value.dtype and torch.equal(found, value), name
        assert found.data_ptr() != model.state_dict()[name].data_ptr()
    assert [p.requires_grad for p in copied.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]
    copied(torch.ones(1, 8, dtype=torch.half if half else torch.float32))
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
