"""Sites that cost the same are found together, and a variant can treat them apart."""

from __future__ import annotations

import itertools

import coremltools as ct
import pytest
import torch
from torch import nn

import passes
from frontend import capture
from frontend.model_call import ModelCall
from frontend.source import source_of
from lowering import convert, verify
from lowering.ablation.sites import MOST_GROUPS, sites_of
from lowering.ablation.sweep import Settings
from lowering.ablation.tune import tune_model
from lowering.ablation.variants import variant_with
from passes import AtSites
from passes.split_attention import SplitAttention


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x):
        parts = [
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(x).chunk(3, -1)
        ]
        return nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)


class Stages(nn.Module):
    """Attention over 24 tokens, twice, and over 6 of twice the width."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Attention(16, 2), Attention(16, 2)
        self.last = Attention(64, 4)

    def forward(self, x):
        x = self.second(self.first(x))
        return self.last(x.reshape(1, 6, 64))


X = torch.randn(1, 24, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Stages().eval()


@pytest.fixture(scope="module")
def sites(model):
    return sites_of(capture(model, (X,)), passes.DEFAULT_PIPELINE)


def test_groups_are_by_size(sites):
    assert sites["attention"] == {
        "24 x 24 tokens, 2 heads of 8": ("first", "second"),
        "6 x 6 tokens, 4 heads of 16": ("last",),
    }
    assert sites["linear"]["16 to 16"] == ("first.qkv", "second.qkv")
    assert "rms_norm" not in sites  # there are none


def test_one_size_is_no_choice():
    program = capture(nn.Sequential(Attention(16, 2), Attention(16, 2)).eval(), (X,))
    assert sites_of(program, passes.DEFAULT_PIPELINE) == {}


def test_only_so_many_groups():
    widths = [4 + 2 * i for i in range(MOST_GROUPS + 3)]
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    program = capture(nn.Sequential(*layers).eval(), (torch.randn(2, 4),))
    assert len(sites_of(program, passes.DEFAULT_PIPELINE)["linear"]) == MOST_GROUPS


def test_each_site_gets_its_form(model, sites):
    settings = {"attention at 6 x 6 tokens, 4 heads of 16": "batched", "linear at 16 to 16": "kept"}
    variant = variant_with(passes.DEFAULT_PIPELINE, settings, sites)
    assert variant.settings == settings
    optimized = passes.optimize_for_ane(model, (X,), pipeline=variant.pipeline)
    kinds = {
        module: {
            str(node.target)
            for node in optimized.program.graph.nodes
            if node.op == "call_function" and source_of(node).module == module
        }
        for module in ("first", "last", "first.qkv", "last.qkv")
    }
    assert "aten.einsum.default" in kinds["first"] and "aten.matmul.default" not in kinds["first"]
    assert "aten.matmul.default" in kinds["last"] and "aten.einsum.default" not in kinds["last"]
    assert "aten.linear.default" in kinds["first.qkv"]
    assert "aten.convolution.default" in kinds["last.qkv"]
    torch.testing.assert_close(optimized(X), model(X), rtol=1e-5, atol=1e-6)


def test_what_changes_nothing_has_no_name(sites):
    settings = {"attention": "batched", "attention at 6 x 6 tokens, 4 heads of 16": "batched"}
    variant = variant_with(passes.DEFAULT_PIPELINE, settings, sites)
    assert variant.name == "attention=batched"


def test_a_package_names_its_sites(model, tmp_path):
    steps = tuple(
        part
        for step in passes.DEFAULT_PIPELINE
        for part in (
            (AtSites(SplitAttention("batched"), ("last",)), AtSites(step, ("last",), True))
            if isinstance(step, SplitAttention)
            else (step,)
        )
    )
    optimized = passes.optimize_for_ane(model, (X,), pipeline=steps)
    mlmodel = convert(optimized, skip_model_load=True)
    assert verify(mlmodel, model, (X,))  # repeats the passes that the package names


def test_tune_tries_them(model):
    settings = Settings(deployment_target=ct.target.iOS18.name)
    found = tune_model(ModelCall("stages", model, (X,)), settings)
    tried = [variant.name for variant in found.ablation.variants]
    assert any("attention at 6 x 6 tokens, 4 heads of 16=" in name for name in tried)
    assert any("linear at 16 to 16=" in name for name in tried)
    assert any("size by size" in reason for reason in found.reasons)
