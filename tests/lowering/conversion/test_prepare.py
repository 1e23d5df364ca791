"""Numbers that the package's types cannot hold."""

import pytest
import torch
from torch import nn

from lowering import convert, predict


class OldMask(nn.Module):
    """The mask as older Hugging Face models build it, with the number as a literal or a buffer."""

    def __init__(self, literal):
        super().__init__()
        self.literal = literal
        self.register_buffer("lowest", torch.tensor(torch.finfo(torch.float32).min))

    def forward(self, scores, mask):
        lowest = torch.finfo(torch.float32).min if self.literal else self.lowest
        return (scores + (1.0 - mask.float()) * lowest).softmax(-1)


@pytest.mark.parametrize("literal", [True, False])
def test_zero_times_the_lowest_float_is_zero_in_fp16(literal):
    scores, mask = torch.randn(2, 6), torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])
    module = OldMask(literal)
    found = predict(convert(module, (scores, mask)), {"scores": scores, "mask": mask})
    torch.testing.assert_close(
        torch.from_numpy(found["output"]).float(), module(scores, mask), rtol=1e-2, atol=1e-3
    )


def test_infinities_stay():
    class Fill(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.tensor([-torch.inf, 1e9, 0.0]))

        def forward(self, x):
            return torch.where(x > 0, x, -torch.inf), x + self.table

    x = torch.tensor([1.0, -1.0, 0.5])
    found = list(predict(convert(Fill(), (x,)), {"x": x}).values())
    assert found[0].tolist() == [1.0, -torch.inf, 0.5]
    assert found[1].tolist() == [-torch.inf, torch.inf, 0.5]  # as in half precision
