"""A pass may be run at some modules only."""

import torch
from torch import nn

from passes.at_sites import AtSites
from passes.linear_to_conv1x1 import LinearToConv1x1
from tests.passes.util import assert_same, run_pass, seeded

aten = torch.ops.aten
X = seeded(2, 3, 8)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.b(self.a(x))


def counted(step):
    torch.manual_seed(0)
    model = Two().eval()
    _, after, (report,) = run_pass(model, X, step)
    assert_same(model, after, X)
    kinds = [str(node.target) for node in after.graph.nodes]
    return kinds.count("aten.linear.default"), kinds.count("aten.convolution.default"), report


def test_there_and_elsewhere():
    for elsewhere in (False, True):
        linears, convolutions, report = counted(AtSites(LinearToConv1x1(), ("a",), elsewhere))
        assert (linears, convolutions) == (1, 1)
        assert report.name == "linear_to_conv1x1" and report.rewrites == 1
        assert report.options["modules"] == ("a",)
        assert report.to_json()["options"]["step"] == {"tied": "keep"}


def test_nowhere():
    assert counted(AtSites(LinearToConv1x1(), ()))[:2] == (2, 0)


def test_afterwards_a_pass_sees_all():
    model = Two().eval()
    steps = AtSites(LinearToConv1x1(), ("a",)), LinearToConv1x1()
    _, after, reports = run_pass(model, X, *steps)
    assert [report.rewrites for report in reports] == [1, 1]
    assert not after.graph.find_nodes(op="call_function", target=aten.linear.default)
