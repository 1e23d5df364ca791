"""Whole models: the default pipeline in every form, every pass alone, and each pass left out."""

import functools

import pytest
import torch

from frontend.capturing import capture
from passes import default_pipeline
from passes.numerics import close
from passes.pipeline import run
from tests.passes.util import outputs
from tests.passes.zoo import FAMILIES, family, fresh

FORMS = ("split", "batched", "native")
# What differs most: masks and tied heads, grouped rotary decoders, patches, convolutions,
# relative positions, windows.
SUBSET = ("distilbert", "gpt2", "qwen3", "vit", "convnext", "swin")
CONVOLUTIONAL = ("mobilenet_v2", "convnext")
PASSES = default_pipeline()
NAMES = tuple(dict.fromkeys(step.name for step in PASSES))


@functools.cache
def captured(name, attention="sdpa"):
    """The model and its program, captured once for all tests."""
    model, inputs = family(name, attention)
    return model, capture(model, kwargs=inputs)


def assert_parity(name, pipeline, attention="sdpa"):
    model, program = captured(name, attention)
    rewritten, reports = run(program, pipeline)
    for seed in (1, 2):
        inputs = fresh(name, seed)
        want, have = outputs(model, (), inputs), outputs(rewritten, (), inputs)
        assert len(want) == len(have)
        for label, a, b in zip(program.graph_signature.user_outputs, want, have, strict=True):
            worst = (a.double() - b.double()).abs().max()
            assert close(a, b), f"{label}: {worst:.2g} of {a.abs().max():.2g}"
    return rewritten, reports


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in CONVOLUTIONAL])
def test_default_pipeline(name, form):
    _, reports = assert_parity(name, default_pipeline(attention=form))
    assert {r.name: r for r in reports}["split_attention"].rewrites >= 1


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_default_pipeline_without_attention(name):
    assert_parity(name, PASSES)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["gpt2", "qwen3", "bert", "t5_encoder", "vit"])
def test_eager_attention(name, form):
    """Attention that HuggingFace writes out is found all the same."""
    _, reports = assert_parity(name, default_pipeline(attention=form), "eager")
    assert {r.name: r for r in reports}["split_attention"].rewrites == 1


@pytest.mark.parametrize("step", PASSES, ids=lambda step: step.name)
@pytest.mark.parametrize("name", SUBSET)
def test_every_pass_alone(name, step):
    assert_parity(name, (step,))


@pytest.mark.parametrize("left_out", NAMES)
@pytest.mark.parametrize("name", SUBSET)
def test_each_pass_left_out(name, left_out):
    assert_parity(name, tuple(step for step in PASSES if step.name != left_out))


def test_the_comparison_can_fail():
    model, program = captured("bert")
    rewritten, _ = run(program, PASSES)
    key = next(key for key, t in rewritten.state_dict.items() if t.dim() == 4)
    noise = 1e-4 * torch.randn_like(rewritten.state_dict[key])
    rewritten.state_dict[key] = rewritten.state_dict[key] + noise
    inputs = fresh("bert", 1)
    pairs = zip(outputs(model, (), inputs), outputs(rewritten, (), inputs), strict=True)
    assert not all(close(a, b) for a, b in pairs)
