"""Whole numbers in buffers that Python reads."""

import pytest
import torch
from torch import nn

from frontend.branches import BranchError
from frontend.capturing import capture


class Cut(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("stride", torch.tensor(2), persistent=False)
        self.register_buffer("scale", torch.tensor([0.5, 2.0, 1.0, 1.0]))
        self.register_buffer("width", torch.tensor(3))

    def forward(self, x):
        frames = (x.shape[-1] - self.width + self.stride) / self.stride
        end = (torch.ceil(frames).to(torch.int64) - 1) * self.stride
        return x[..., :end] * self.scale[: int(self.width)].sum()


class Padded(Cut):
    def forward(self, x):
        y = torch.nn.functional.pad(x, (self.stride, self.width - self.stride))
        return y[..., : self.width + y.shape[-1] // 2]


class Counter(Cut):
    def forward(self, x):
        self.width += 1
        return x[..., : self.width]


def test_buffers_may_be_the_ends_of_slices():
    model, x = Cut(), torch.randn(1, 2, 11)
    (found,) = capture(model, (x,)).module()(x)
    torch.testing.assert_close(found, model(x))
    assert list(model._buffers) == ["stride", "scale", "width"]
    assert list(model.state_dict()) == ["scale", "width"] and "stride" not in model.__dict__


def test_buffers_may_be_widths_of_padding():
    model, x = Padded(), torch.randn(1, 2, 11)
    program = capture(model, (x,))
    (found,) = program.module()(x)
    torch.testing.assert_close(found, model(x))
    assert all(isinstance(size, int) for size in found.shape) and not program.range_constraints


def test_buffers_that_are_written_are_no_constants():
    model = Counter()
    with pytest.raises(BranchError, match="depends on data"):
        capture(model, (torch.randn(1, 2, 11),))
    assert int(model.width) == 3 and list(model._buffers) == ["stride", "scale", "width"]


def test_other_buffers_stay_buffers():
    program = capture(nn.BatchNorm1d(4), (torch.randn(2, 4),))
    assert "num_batches_tracked" in program.state_dict or not program.constants
