"""Pipelines are written to text and read back; nothing is evaluated."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import ClassVar

import pytest

import passes
from passes.default_pipeline import ALL_PASSES
from passes.forms import FormsError, forms_in, with_forms
from passes.pipeline_text import PipelineTextError, from_json, from_text, to_json, to_text


@dataclass(frozen=True)
class Own(passes.Pass):
    name: ClassVar[str] = "own"
    sizes: tuple[int, ...] = (1, 2)
    limit: float = float("inf")
    labels: tuple[str, ...] = ("a b", "c'd")

    def apply(self, rw: passes.Rewriter) -> None:
        return None


PIPELINES = {
    "default": passes.DEFAULT_PIPELINE,
    "batched": passes.default_pipeline(attention="batched", rms_norm="layer_norm"),
    "sites": (passes.AtSites(passes.SplitAttention("native"), ("a.0", "b"), elsewhere=True),),
    "empty": (),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_round_trip(name: str):
    assert from_json(to_json(PIPELINES[name])) == PIPELINES[name]


def test_own_passes():
    steps = (Own(), Own((3,), -1.5), passes.FoldConstants())
    assert from_text(to_text(steps), known=(Own,)) == steps
    with pytest.raises(PipelineTextError, match="the pass Own is not known here"):
        from_text(to_text(steps))


@pytest.mark.parametrize(
    "text",
    ["open('x', 'w')", "FoldConstants", "FoldConstants(1)", "FoldConstants(", "[]", "Own().apply()",
     "SplitAttention(form=open('x'))", "SplitAttention(shape='split')"],
)  # fmt: skip
def test_other_texts_are_refused(text: str):
    with pytest.raises(PipelineTextError):
        from_text([text], known=(Own,))


@pytest.mark.parametrize("text", ["{}", "3", "[1]", "nonsense"])
def test_other_json_is_refused(text: str):
    with pytest.raises(PipelineTextError):
        from_json(text)


def test_every_default_pass_is_known():
    assert {type(step) for step in passes.DEFAULT_PIPELINE} <= set(ALL_PASSES)


def test_every_pass_of_this_package_is_known():
    for module in pkgutil.walk_packages(passes.__path__, "passes."):
        found = vars(importlib.import_module(module.name)).values()
        own = {kind for kind in found if isinstance(kind, type) and issubclass(kind, passes.Pass)}
        assert own - {passes.Pass} <= set(ALL_PASSES), module.name


def test_forms_are_set_by_option():
    forms = forms_in(passes.DEFAULT_PIPELINE)
    assert {"attention", "linear", "rms_norm", "layout"} <= set(forms)
    changed = with_forms(passes.DEFAULT_PIPELINE, {"attention": "batched"})
    assert changed == passes.default_pipeline(attention="batched")
    with pytest.raises(FormsError, match="no form 'sideways'"):
        with_forms(passes.DEFAULT_PIPELINE, {"attention": "sideways"})
    with pytest.raises(FormsError, match="forms of 'colour'"):
        with_forms(passes.DEFAULT_PIPELINE, {"colour": "red"})
