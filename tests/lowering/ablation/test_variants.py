"""Which pipelines an ablation compares."""

from __future__ import annotations

import pytest

import passes
from lowering.ablation.variants import VariantsError, choices_of, variant_with, variants_of
from passes.fold_constants import FoldConstants
from passes.linear_to_conv1x1 import LinearToConv1x1
from passes.simplify_views import SimplifyViews
from passes.split_attention import SplitAttention

PIPELINE = (SimplifyViews(), SplitAttention(), LinearToConv1x1(), SimplifyViews())


def named(variants):
    found = {variant.name: variant for variant in variants}
    assert len(found) == len(variants)  # names are unique
    return found


def test_each_left_out_each_alone_and_prefixes():
    found = named(variants_of(PIPELINE))
    assert list(found)[:2] == ["default", "original"]
    assert found["default"].pipeline == PIPELINE
    assert found["original"].pipeline == ()
    assert found["without simplify_views"].pipeline == PIPELINE[1:3]
    assert found["simplify_views alone"].pipeline == PIPELINE[:1]
    assert found["first 2, to split_attention"].pipeline == PIPELINE[:2]
    kinds = [variant.kind for variant in found.values()]
    counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    assert counts == {
        "default": 1,
        "original": 1,
        "without": 3,
        "alone": 3,
        "prefix": 3,
        "form": 3,
    }


def test_forms_are_a_grid_and_native_attention_needs_ios18():
    forms = [v for v in variants_of(passes.DEFAULT_PIPELINE) if v.kind == "form"]
    assert len(forms) == 4 * 3 - 1
    newer = variants_of(passes.DEFAULT_PIPELINE, deployment_target="iOS18")
    assert len([v for v in newer if v.kind == "form"]) == 5 * 3 - 1
    both = named(forms)["attention=batched, rms_norm=layer_norm"]
    assert both.settings == {"attention": "batched", "rms_norm": "layer_norm"}
    options = {step.name: step for step in both.pipeline}
    assert options["split_attention"].form == "batched"
    assert options["rms_norm_form"].form == "layer_norm"


def test_only_some_passes():
    found = named(variants_of(PIPELINE, only=["split_attention"]))
    assert "without split_attention" in found and "without simplify_views" not in found
    with pytest.raises(VariantsError, match="no such pass"):
        variants_of(PIPELINE, only=["nonsense"])


def test_choices():
    assert "native" in choices_of(SplitAttention.forms, "iOS18")
    assert "native" not in choices_of(SplitAttention.forms, "iOS17")
    kept = variant_with(PIPELINE, {"linear": "kept", "attention": "split", "layout": "assigned"})
    assert kept.name == "linear=kept"
    assert LinearToConv1x1() not in kept.pipeline and len(kept.pipeline) == 3
    assert variant_with(PIPELINE, {}).name == "default"
    assert variant_with((FoldConstants(),), {"attention": "batched"}).name == "default"
