"""Routers rank logits; what is no such router stays."""

import pytest
import torch
from torch import nn

from lowering import convert, predict
from passes.topk_of_logits import TopkOfLogits
from tests.passes.util import Function, assert_same, count, reasons, run_pass, seeded

aten = torch.ops.aten
X = seeded(6, 8)


class Router(nn.Module):
    def __init__(self, k=2, dim=-1):
        super().__init__()
        self.k, self.dim = k, dim

    def forward(self, x):
        weights, chosen = x.softmax(self.dim).topk(self.k, self.dim)
        return weights / weights.sum(self.dim, keepdim=True), weights, chosen


@pytest.mark.parametrize("k, dim", [(1, -1), (2, 1), (3, 0)])
def test_logits_are_ranked(k, dim):
    model = Router(k, dim)
    _, after, (report,) = run_pass(model, X, TopkOfLogits())
    assert report.rewrites == 1 and count(after, aten.softmax.int, aten._softmax.default) == 0
    for x in (X, X * 3, -X):
        assert_same(model, after, x)


@pytest.mark.parametrize(
    "function, reason",
    [
        (lambda m, x: x.softmax(0).topk(2, 1)[1], "another axis"),
        (lambda m, x: x.softmax(1).topk(2, 1, largest=False)[0], "smallest"),
        (lambda m, x: x.softmax(1).topk(2, 1, sorted=False)[0].sum(1), "not sorted"),
    ],
)
def test_refusals(function, reason):
    _, after, (report,) = run_pass(Function(function), X, TopkOfLogits())
    assert report.rewrites == 0 and reason in reasons(report)[0]
    assert_same(Function(function), after, X)


def test_close_experts_are_told_apart_in_fp16():
    logits = torch.zeros(1, 8)
    logits[0, 5], logits[0, 2] = 2e-4, 1e-4  # 1/8 of it is less than a rounding of 1/8
    before, after, _ = run_pass(Router(), logits, TopkOfLogits())
    chosen = [
        list(predict(convert(program), {"x": logits}).values())[2][0].tolist()
        for program in (before, after)
    ]
    assert chosen[1] == [5, 2] != chosen[0]
