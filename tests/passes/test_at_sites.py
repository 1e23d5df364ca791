"""A pass may be run at some modules only."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from frontend.capturing import capture
from frontend.program import runnable
from passes import DEFAULT_PIPELINE, Pass, PassError
from passes.at_sites import AtSites
from passes.complex_to_real.complex_to_real import ComplexToReal
from passes.fold_constants import FoldConstants
from passes.layout.assign_layout import AssignLayout
from passes.limit_rank.limit_rank import LimitRank
from passes.linear_to_conv1x1 import LinearToConv1x1
from passes.pipeline import run
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


@pytest.mark.parametrize("modules", [(), ("no.such.module",), ("a",)])
@pytest.mark.parametrize(
    "step", [FoldConstants(), AssignLayout(), LimitRank(), ComplexToReal()], ids=lambda s: s.name
)
def test_what_cannot_work_by_site_is_refused_by_name(step, modules):
    with pytest.raises(PassError, match=f"{step.name} cannot run at some modules only"):
        AtSites(step, modules)


@pytest.mark.parametrize("value", [LinearToConv1x1, None, "linear_to_conv1x1"])
def test_what_is_no_pass_has_no_sites(value):
    with pytest.raises(PassError, match="AtSites runs a pass"):
        AtSites(value, ())


class Busy(nn.Module):
    """Something to do for most passes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, 0.5, activation=self.gelu)
        self.norm, self.rms, self.conv = nn.BatchNorm1d(8), nn.RMSNorm(8), nn.Conv1d(8, 8, 1)

    def gelu(self, x):
        return x * 0.5 * (1 + torch.erf(x / 2**0.5))

    def forward(self, x):
        h = self.rms(self.layer(x) + 0)
        h = self.conv(self.norm(h.transpose(1, 2))).transpose(1, 2).transpose(0, 1).transpose(0, 1)
        return h + self.layer(x)[torch.arange(2)]


def test_every_other_pass_looks_at_its_sites_alone():
    """What rewrites something does nothing at all where no module is meant."""
    program = torch.export.export(Busy().train(), (X,))
    program, busy = capture(program), set()
    for step in DEFAULT_PIPELINE:
        if step.by_site:
            _, (report,) = run(program, (AtSites(step, ("no.such.module",)),))
            assert (report.rewrites, report.declined, report.ops_before) == (
                0, (), report.ops_after,
            )  # fmt: skip
        program, (report,) = run(program, (step,))
        if report.rewrites and step.by_site:
            busy.add(step.name)
    assert len(busy) >= 10, busy


@dataclass(frozen=True)
class TopHalf(Pass):
    """Returns half of the result: changes the shape of an output, by site."""

    name: ClassVar[str] = "top_half"
    by_site: ClassVar[bool] = True
    changes_outputs: ClassVar[bool] = True
    runs_after: ClassVar[dict[str, str]] = {"linear_to_conv1x1": "for the test"}

    def apply(self, rw):
        (relu,) = rw.find(torch.ops.aten.relu.default)
        with rw.at(rw.output):
            half = rw.emit(torch.ops.aten.slice.Tensor, relu, 0, 0, 1)
        rw.use_instead(rw.output, relu, half)
        rw.rewritten(relu)


def test_what_the_pass_declares_is_handed_on():
    step = AtSites(TopHalf(), ("",))
    assert (step.name, step.changes_outputs, step.by_site) == ("top_half", True, True)
    assert step.runs_after == TopHalf.runs_after
    after, (report,) = run(capture(nn.ReLU(), (seeded(2, 3),)), (step,))
    assert report.rewrites == 1
    (result,) = runnable(after)(seeded(2, 3))
    assert result.shape == (1, 3)


def test_sites_within_sites():
    both = AtSites(AtSites(LinearToConv1x1(), ("a", "b")), ("a",))
    assert counted(both)[:2] == (1, 1)
    assert counted(AtSites(AtSites(LinearToConv1x1(), ("a",)), ("a",), elsewhere=True))[1] == 0
