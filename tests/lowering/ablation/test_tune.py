"""Tuning chooses what is cheapest among what is exact enough, and says why."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch.export import ExportedProgram

import passes
from frontend.capturing import capture
from frontend.model_call import ModelCall
from lowering.ablation import tune as tuning
from lowering.ablation.measure import figures_of
from lowering.ablation.result import Ablation, Figures, VariantResult
from lowering.ablation.sweep import Settings, Sweep
from lowering.ablation.tune import TuneError, tune_model
from lowering.verification import Original, VerificationError
from passes.at_sites import AtSites
from passes.split_attention import SplitAttention
from tests.lowering.ablation.ablation_models import attention_layer
from tests.lowering.ablation.test_result import figures


class Priced(Sweep):
    """A sweep that reads prices, latencies and errors off a table."""

    prices: dict[str, float]
    latencies: dict[str, float | None]
    errors: dict[str, float]
    agreements: dict[str, float]
    asked: list[str]

    def __enter__(self) -> Sweep:
        self.programs.append(cast(ExportedProgram, None))  # ``sites_of`` is replaced as well
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def run(self, variants):
        (own,) = variants
        type(self).asked = [variant.name for variant in own]
        results = []
        for variant in own:
            found = figures(self.latencies.get(variant.name, 1.0), self.prices.get(variant.name, 9))
            found = type(found)(
                found.mil,
                found.weight_bytes,
                self.errors.get(variant.name, 1e-3),
                *(found.max_abs, found.predicted, found.observed),
                agreement=self.agreements.get(variant.name),
            )
            results.append(
                VariantResult(variant.name, variant.kind, (), variant.settings, figures=found)
            )
        return [Ablation("tiny", ("M4",), "iOS18", "default", 1e-3, tuple(results))]


@pytest.fixture
def priced(monkeypatch):
    monkeypatch.setattr(tuning, "Sweep", Priced)
    Priced.latencies, Priced.errors, Priced.agreements = {}, {}, {}

    def tuned(prices, *, sites=None, metric=None, **options):
        monkeypatch.setattr(tuning, "sites_of", lambda program, pipeline: sites or {})
        Priced.prices = prices
        model = ModelCall("tiny", None)
        settings = Settings(deployment_target="iOS18", metric=metric)
        return tune_model(model, settings, **options)

    return tuned


def test_goes_on_from_the_best(priced):
    found = priced(
        {
            "default": 4.0,
            "attention=native": 3.0,
            "rms_norm=layer_norm": 3.5,
            "attention=native, rms_norm=layer_norm": 2.0,
        }
    )
    assert found.chosen == "attention=native, rms_norm=layer_norm"
    steps = {step.name: step for step in found.pipeline}
    assert steps["split_attention"].form == "native"
    assert steps["rms_norm_form"].form == "layer_norm"
    assert "by price: attention=native, rms_norm=layer_norm, 2 ms predicted" in str(found.reasons)
    assert found.to_json()["pipeline"][0] == "BranchesToWhere()"


SITES = {"attention": {"wide": ("a", "b"), "narrow": ("c",)}}


def test_sites_of_one_size_may_differ(priced):
    prices = {
        "default": 4.0,
        "attention=batched": 3.0,
        "attention=batched, attention at narrow=split": 2.0,
        "attention at narrow=native": 1.0,  # is not on the way
    }
    found = priced(prices, sites=SITES)
    assert found.chosen == "attention=batched, attention at narrow=split"
    steps = [step for step in found.pipeline if step.name == "split_attention"]
    assert steps == [
        AtSites(SplitAttention("split"), ("c",)),
        AtSites(SplitAttention("batched"), ("c",), elsewhere=True),
    ]
    assert any("3 sites of 2 sizes" in reason for reason in found.reasons)


def test_what_hardly_gains_is_not_worth_two_forms(priced):
    prices = {"default": 4.0, "attention=batched": 3.0}
    prices["attention=batched, attention at wide=native"] = 2.99
    assert priced(prices, sites=SITES).chosen == "attention=batched"


def test_the_default_can_be_best(priced):
    found = priced({"default": 4.0, "attention=native": 3.99})
    assert found.chosen == "default" and found.pipeline == passes.DEFAULT_PIPELINE
    assert any("default is best" in reason for reason in found.reasons)
    assert "attention=native, linear=kept" in Priced.asked  # it went on from the best


def test_an_inexact_variant_is_left_out(priced):
    Priced.errors = {"attention=native": 0.02}
    prices = {"default": 4.0, "attention=native": 1.0, "attention=batched": 3.0}
    found = priced(prices)
    assert found.chosen == "attention=batched"
    assert found.bound == pytest.approx(3e-3)
    assert any("above 3.0e-03: attention=native" in reason for reason in found.reasons)
    assert priced(prices, bound=0.05).chosen == "attention=native"
    with pytest.raises(TuneError, match="keeps the bound"):
        priced(prices, bound=1e-6)


def test_variants_below_the_metric_are_left_out(priced):
    Priced.agreements = {"attention=native": 0.9, "default": 1.0, "attention=batched": 0.99}
    prices = {"default": 4.0, "attention=native": 1.0, "attention=batched": 3.0}
    found = priced(prices, metric="top1")
    assert found.chosen == "attention=batched" and found.at_least == 0.99
    assert any("below 0.99: " in why and "attention=native" in why for why in found.reasons)
    assert priced(prices, metric="top1", at_least=0.8).chosen == "attention=native"
    assert priced(prices).chosen == "attention=native"
    Priced.agreements = dict.fromkeys(prices, 0.5)
    with pytest.raises(TuneError, match="as the metric asks"):
        priced(prices, metric="top1")
    with pytest.raises(VerificationError, match="no metric 'accuracy'"):
        priced(prices, metric="accuracy")
    with pytest.raises(TuneError, match="at_least"):
        priced(prices, at_least=0.9)


@pytest.mark.parametrize(("metric", "low"), [("top1", 1.0), ("cosine", 0.999), ("mask", 0.0)])
def test_packages_are_judged_by_the_metric(metric, low):
    class Scores(torch.nn.Module):
        def forward(self, x):
            return (x * 3.0).softmax(-1)

    model, x = Scores(), torch.randn(6, 9)
    original = Original.of(capture(model, (x,)))
    expected = original.expected()[1]
    found = figures_of(original.program, original, expected, metric=metric)
    assert low <= found.agreement <= 1
    assert Figures.from_json(found.to_json()).agreement == found.agreement


def test_by_latency(priced):
    Priced.latencies = {"default": 2.0, "attention=batched": 0.5}
    found = priced({"default": 4.0, "attention=native": 1.0}, by="latency")
    assert found.chosen == "attention=batched"
    assert "by price: attention=native" in str(found.reasons)
    assert "0.5 ms predicted, the default 2 ms: faster" in str(found.reasons)


def test_no_latency(priced):
    class Nothing(dict):
        def get(self, name, default=None):
            return None

    Priced.latencies = Nothing()
    assert "by latency: unknown" in str(priced({"default": 1.0}).reasons)
    with pytest.raises(TuneError, match="no variant has a latency"):
        priced({"default": 1.0}, by="latency")


def test_a_real_model():
    found = tune_model(attention_layer(), Settings(deployment_target="iOS18"))
    variants = {variant.name: variant for variant in found.ablation.variants}
    assert {"default", "attention=native", "linear=kept", "layout=as_written"} <= set(variants)
    prices = [variant.figures.on("M4").dispatch_ms for variant in variants.values()]
    chosen = variants[found.chosen].figures
    assert chosen.on("M4").dispatch_ms <= min(prices) / (1 - tuning.MIN_GAIN)
    assert found.target == "M4" and found.by == "price"
    # What the figures leave out is said whenever it matters.
    native = chosen.mil.count("scaled_dot_product_attention")
    assert any("caution" in reason for reason in found.reasons) == bool(native)
