"""A target chooses the form of attention by site; without one, nothing changes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import passes
from passes import attention_choice, split_attention
from passes.attention_choice import FormChoice
from passes.default_pipeline import default_pipeline
from passes.errors import PassError
from passes.pipeline_text import from_text, to_text
from passes.split_attention import SplitAttention
from tests.passes.util import count

aten = torch.ops.aten


class TwoSizes(nn.Module):
    """Attention over 24 positions, then over every fourth of them."""

    def forward(self, x):
        x = F.scaled_dot_product_attention(x, x, x)
        x = x[:, :, ::4]
        return F.scaled_dot_product_attention(x, x, x, is_causal=True)


def _chosen(monkeypatch, choose):
    asked = []

    def chooser(site, target, system, most):
        asked.append((site, target, system, most))
        return choose(site)

    monkeypatch.setattr(split_attention, "choose_form", chooser)
    return asked


def _notes(optimized):
    return [note for report in optimized.reports for note in report.notes]


@pytest.mark.parametrize(
    ("forms", "einsums", "products"),
    [
        ({24: ("split", 24), 6: ("batched", 6)}, 6, 2),
        ({24: ("batched", 24), 6: ("split", 2)}, 18, 2),
        ({24: ("split", 8), 6: ("split", 6)}, 24, 0),
    ],
)
def test_each_site_has_its_own_form(monkeypatch, forms, einsums, products):
    x = torch.randn(2, 3, 24, 8)
    asked = _chosen(monkeypatch, lambda site: FormChoice(*forms[site.queries], "as told"))
    optimized = passes.optimize_for_ane(TwoSizes(), (x,), target="M4", deployment_target="iOS18")
    torch.testing.assert_close(optimized(x), TwoSizes()(x), rtol=1e-5, atol=1e-6)
    assert count(optimized.program, aten.einsum.default) == einsums
    assert count(optimized.program, aten.matmul.default) == products
    assert [(entry[0].queries, entry[0].masked, *entry[1:3]) for entry in asked] == [
        (24, False, "M4", "iOS18"),
        (6, True, "M4", "iOS18"),
    ]
    assert sum("as told" in note for note in _notes(optimized)) == 2


def test_sites_share_the_cap(monkeypatch):
    asked = _chosen(monkeypatch, lambda site: FormChoice("batched", site.queries, ""))
    step = SplitAttention("chosen", most_parts=10, target="M4")
    passes.optimize_for_ane(TwoSizes(), (torch.randn(2, 3, 24, 8),), pipeline=(step,))
    assert [most for *_, most in asked] == [5, 5]


def test_a_form_that_is_asked_for_stays(monkeypatch):
    asked = _chosen(monkeypatch, lambda site: pytest.fail("a form was given"))
    pipeline = default_pipeline(attention="batched")
    optimized = passes.optimize_for_ane(
        TwoSizes(), (torch.randn(2, 3, 24, 8),), pipeline=pipeline, target="M4"
    )
    assert optimized.pipeline == pipeline
    assert not asked


def test_without_a_target_nothing_is_asked(monkeypatch):
    asked = _chosen(monkeypatch, lambda site: pytest.fail("no target was given"))
    optimized = passes.optimize_for_ane(TwoSizes(), (torch.randn(2, 3, 24, 8),))
    assert count(optimized.program, aten.einsum.default) == 12
    assert not asked


def test_sizes_that_vary_are_split_and_told():
    x = torch.randn(1, 2, 24, 8)
    shapes = {"x": {2: torch.export.Dim("tokens", min=8, max=64)}}

    class One(nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(x, x, x)

    optimized = passes.optimize_for_ane(One(), (x,), dynamic_shapes=shapes, target="M4")
    assert any("not known before the model runs" in note for note in _notes(optimized))
    assert count(optimized.program, aten.einsum.default) == 4


def test_the_choice_can_be_written_and_read():
    step = SplitAttention("chosen", target="M2 Pro", system="iOS18")
    assert from_text(to_text((step,))) == (step,)


@pytest.mark.parametrize("options", [{"form": "chosen"}, {"target": "M4"}])
def test_choosing_takes_a_target(options):
    with pytest.raises(PassError, match="the form of attention is chosen for a target"):
        SplitAttention(**options)


def test_without_predictions_there_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(attention_choice, "_CHOOSER", "no_such_package.forms:choose")
    with pytest.raises(PassError, match="no predictions are installed"):
        passes.optimize_for_ane(TwoSizes(), (torch.randn(2, 3, 24, 8),), target="M4")
