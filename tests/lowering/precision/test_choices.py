"""Choices between nearly equal numbers are told; where the user's input has them, settled."""

import pytest
import torch
from torch import nn

import lowering
import passes
from lowering.precision.pins import PinReport
from lowering.precision.safe import PrecisionWarning

WIDTH, EXPERTS = 24, 6


def by_topk(scores):
    weights, places = scores.softmax(-1).topk(1, -1)
    return torch.zeros_like(scores).scatter(-1, places, weights)


def by_argmax(scores):
    return nn.functional.one_hot(scores.argmax(-1), EXPERTS).float()


def by_sort(scores):
    places = scores.argsort(-1, descending=True)[..., :1]
    return torch.zeros_like(scores).scatter(-1, places, 1.0)


class Routed(nn.Module):
    """Tokens through the expert that is chosen; where it is ``tied``, two are as good, nearly."""

    def __init__(self, choose, tied=True, offset=0.0):
        super().__init__()
        torch.manual_seed(1)
        self.choose, self.offset = choose, offset
        self.table, self.mix = nn.Embedding(40, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.router = nn.Linear(WIDTH, EXPERTS)
        self.experts = nn.Parameter(torch.randn(EXPERTS, WIDTH, WIDTH) / WIDTH**0.5)
        if tied:
            with torch.no_grad():
                first = self.mix(self.table.weight[0]).tanh()
                best, other = self.router.weight[:2]
                other.copy_(best + 1e-7 * torch.randn(WIDTH))
                other.sub_(first * (first @ (other - best) - 1e-6) / (first @ first))
                self.router.bias[:2] = 4 - first @ best

    def forward(self, ids):
        x = self.mix(self.table(ids)).tanh()
        chosen = self.choose(self.router(x) + self.offset)
        each = torch.einsum("btd,ndf->btnf", x, self.experts)
        return x + (each * chosen[..., None]).sum(-2)


def safe(model, ids):
    optimized = passes.optimize_for_ane(model, (ids,))
    package = lowering.convert(optimized, precision="safe", skip_model_load=True)
    report = PinReport.from_metadata(package.user_defined_metadata)
    assert report is not None
    return package, report


@pytest.mark.parametrize("choose", [by_topk, by_argmax, by_sort])
def test_chance_at_an_end_that_may_never_come_is_told_and_not_pinned(choose):
    ids = torch.full((1, 12), 7)
    with pytest.warns(PrecisionWarning, match="chooses otherwise between nearly equal numbers"):
        _, report = safe(Routed(choose).eval(), ids)
    assert not report.pins and not report.ends and not report.runs
    assert report.choices and all("ids from 0" in c or "ids up to 39" in c for c in report.choices)
    assert "test_choices.py" in report.choices[0] and report.chance in report.summary()
    assert PinReport.from_metadata({"com.ane-passes.pins": report.to_metadata()}) == report


def test_chance_in_the_user_s_own_input_is_settled():
    model, ids = Routed(by_topk).eval(), torch.zeros(1, 12, dtype=torch.long)
    package, report = safe(model, ids)
    assert report.pins and report.after <= 1 < report.before and report.choices
    assert lowering.verify(package, model, (ids,))


def test_scores_that_float16_spoils_are_not_chance():
    """Of 1,000 and a little, float16 loses what tells them apart: float32 mends it."""
    model, ids = Routed(by_argmax, tied=False, offset=1000.0).eval(), torch.arange(40)[None]
    package, report = safe(model, ids)
    assert report.pins and not report.choices
    assert lowering.verify(package, model, (ids,))
