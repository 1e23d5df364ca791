"""A stable sort keeps equal elements in order, or is refused with the limit."""

import pytest
import torch
from torch import nn

import lowering
import passes


class Ranked(nn.Module):
    def __init__(self, **how):
        super().__init__()
        self.how = how

    def forward(self, x):
        values, order = torch.sort(x, stable=True, **self.how)
        return values, order


@pytest.mark.parametrize("how", [{}, {"dim": 0, "descending": True}, {"dim": 1}])
def test_equal_elements_stay_in_order_in_both_precisions(how):
    x = torch.randint(0, 3, (4, 6, 30)).float()
    for precision in ("float32", "float16"):
        made = lowering.convert(passes.optimize_for_ane(Ranked(**how), (x,)), precision=precision)
        values, order = lowering.predict(made, {"x": x}).values()
        wanted = torch.sort(x, stable=True, **how)
        assert (torch.as_tensor(order) == wanted.indices).all()
        assert (torch.as_tensor(values) == wanted.values).all()


def test_a_long_axis_is_refused_with_the_limit():
    x = torch.randn(1, 5000)
    with pytest.raises(lowering.LoweringError, match="stable sort") as caught:
        lowering.convert(Ranked(), (x,))
    assert "at most 2048" in str(caught.value) and "stable=False" in str(caught.value)
