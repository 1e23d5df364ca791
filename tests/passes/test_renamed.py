"""Passes of 0.1 under their old names: Python warns, texts are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

import passes
from lowering.ablation.variants import variants_of
from passes.default_pipeline import ALL_PASSES
from passes.order import check_order, with_pass
from passes.pipeline_text import from_text
from passes.renamed import CLASSES, NAMES, OPTIONS

CURRENT = {kind.__name__: kind for kind in ALL_PASSES}


@pytest.mark.parametrize("old", CLASSES)
def test_a_class_warns_and_its_text_is_read(old: str, recwarn):
    kind = CURRENT[CLASSES[old]]
    assert from_text([f"{old}()"]) == (kind(),)
    assert not recwarn.list
    with pytest.warns(FutureWarning, match=f"passes.{old} is called passes.{kind.__name__} now"):
        assert getattr(passes, old) is kind
    assert old not in passes.__all__


def test_what_was_never_there_is_still_missing():
    with pytest.raises(AttributeError, match="no attribute 'NoSuchPass'"):
        _ = passes.NoSuchPass


def test_a_class_of_the_user_wins_over_an_old_name():
    @dataclass(frozen=True)
    class ChannelNorm(passes.Pass):
        name: ClassVar[str] = "own_norm"

        def apply(self, rw: passes.Rewriter) -> None:
            return None

    assert from_text(["ChannelNorm()"], (ChannelNorm,)) == (ChannelNorm(),)


def test_options_under_their_old_names(recwarn):
    assert OPTIONS.keys() <= CURRENT.keys()
    assert from_text(["LimitRank(most=4)"]) == (passes.LimitRank(max_rank=4),)
    assert not recwarn.list
    with pytest.warns(FutureWarning, match=r"'most' of LimitRank\.__init__\(\) .* 'max_rank'"):
        assert passes.LimitRank(most=4) == passes.LimitRank(4)


@pytest.mark.parametrize("old", NAMES)
def test_a_pass_by_its_old_name(old: str):
    new = NAMES[old]
    with pytest.warns(FutureWarning, match=f"the pass {old} is called {new} now"):
        found = variants_of(passes.DEFAULT_PIPELINE, only=[old])
    assert f"without {new}" in {variant.name for variant in found}


@pytest.mark.filterwarnings("ignore:the pass:FutureWarning")
def test_an_order_under_old_names():
    @dataclass(frozen=True)
    class Late(passes.Pass):
        name: ClassVar[str] = "late"
        runs_after: ClassVar[dict[str, str]] = {"channel_norm": "it reads norms"}

        def apply(self, rw: passes.Rewriter) -> None:
            return None

    with pytest.raises(passes.OrderError, match="fuse_layer_norm must come before late"):
        check_order((Late(), passes.FuseLayerNorm()))
    placed = with_pass((passes.FuseLayerNorm(), passes.LimitRank()), Late())
    assert [step.name for step in placed] == ["fuse_layer_norm", "late", "limit_rank"]
