"""The limits are those of torch's float16."""

from __future__ import annotations

import pytest
import torch

from frontend import fp16


def rounded(number: float) -> float:
    return torch.tensor(number, dtype=torch.float64).half().double().item()


def test_limits_are_torchs():
    limits = torch.finfo(torch.float16)
    assert (limits.max, limits.tiny) == (fp16.MAX, fp16.NORMAL)
    assert limits.eps / 2 == fp16.ROUNDING


def test_nothing_lies_between_smallest_and_zero():
    assert rounded(fp16.SMALLEST) == fp16.SMALLEST
    assert rounded(fp16.SMALLEST * 0.51) == fp16.SMALLEST
    assert rounded(fp16.SMALLEST * 0.5) == 0


@pytest.mark.parametrize(("number", "finite"), [(65519.0, True), (65520.0, False)])
def test_from_where_on_a_number_is_infinite(number, finite):
    assert (rounded(number) == fp16.MAX) is finite
