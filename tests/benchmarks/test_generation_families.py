"""The sweep over decoder families builds them small, and says what differs or is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import generation_configs
from benchmarks.generation_configs import NotBuilt, build, families
from benchmarks.generation_families import (
    TURNS,
    Outcome,
    compared,
    expected,
    in_processes,
    kept,
    sight,
    summary,
)
from benchmarks.generation_steps import FirstOfEquals, TorchGenerator
from lowering.generation import Generator, export_decoder


def test_names_are_those_of_the_registry():
    found = families()
    assert len(found) > 100
    assert found["llama"] == "LlamaForCausalLM"
    assert found["t5"] == "T5ForConditionalGeneration"


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_oss", "bart-seq2seq"])
def test_tiny_models_are_small_and_see_their_prompt(family: str):
    tiny = build(family)
    assert not tiny.model.training
    assert sum(parameter.numel() for parameter in tiny.model.parameters()) < 1e6
    assert sight(tiny) > 0.01
    kinds = getattr(tiny.model.config, "layer_types", None) or ["one"]
    assert len(kinds) >= len(set(kinds)) >= (2 if family in ("gemma3_text", "gpt_oss") else 1)


def test_what_needs_more_than_small_numbers_says_why(monkeypatch: pytest.MonkeyPatch):
    wrong = {"hidden_size": 64, "num_attention_heads": 4, "layer_types": ["no such layer"] * 2}
    monkeypatch.setitem(generation_configs._OWN, "qwen3", wrong)
    with pytest.raises(NotBuilt, match="layer"):
        build("qwen3")


def test_other_weights_differ(tmp_path: Path):
    tiny = build("llama")
    report = export_decoder(tiny.model, tmp_path / "m", context=128, prefill=16, precision="fp32")
    said, note = expected(tiny)
    assert note == ""
    assert [len(turn.tokens) for turn in said] == [turn.new for turn in TURNS]
    made = Generator(report.path, precision="fp32"), TorchGenerator(tiny, prefill=16)
    for generator in made:
        assert compared(tiny, generator, said) == (0.0, "equal")
    with torch.no_grad():
        tiny.model.get_parameter("lm_head.weight").mul_(-1.0)
    lacks, text = compared(tiny, made[0], expected(tiny)[0])
    assert lacks > 0.02
    assert text.startswith("turn 1 differs at 0")


@pytest.mark.parametrize("shape", [(3, 40), (2, 3, 200), (7,)])
def test_of_equal_values_the_first_are_taken(shape: tuple[int, ...]):
    drawn = torch.randint(3, shape, generator=torch.Generator().manual_seed(0)).float()
    with FirstOfEquals():
        for values, places in (drawn.topk(5), torch.topk(drawn, k=5, dim=-1)):
            assert torch.equal(values, torch.sort(drawn, descending=True).values[..., :5])
            assert torch.equal(drawn.gather(-1, places), values)
            equal = values[..., 1:] == values[..., :-1]
            assert bool((places[..., 1:] > places[..., :-1])[equal].all()) and equal.any()
        lowest = drawn.topk(1, largest=False).values
    assert torch.equal(lowest[..., 0], drawn.amin(-1))


@pytest.mark.parametrize("family", ["gemma3_text", "bart-seq2seq", "mamba"])
def test_steps_in_torch_say_what_the_model_says(family: str):
    tiny = build(family)
    generator = TorchGenerator(tiny, prefill=16)
    assert compared(tiny, generator, expected(tiny)[0]) == (0.0, "equal")


def test_a_generate_that_departs_from_its_model_is_no_yardstick():
    tiny = build("roberta")  # generate numbers its tokens from 0, the model from behind the padding
    said, note = expected(tiny)
    assert note.startswith("generate is off its own model by")
    assert said[2].tokens[0] == int(tiny.model(torch.tensor([TURNS[2].ids])).logits[0, -1].argmax())


def test_a_process_that_takes_too_long_is_an_outcome():
    (outcome,) = in_processes(["llama"], 0.0, steps=True)
    assert outcome.stage == "process"
    assert "more than 0 s" in outcome.line()


def test_outcomes_pass_by_what_they_lack(tmp_path: Path):
    equal = Outcome("compared", family="a", lacks={"fp32": 0.0, "fp16": 0.0})
    near = replace(equal, family="b", lacks={"fp32": 0.0, "fp16": 0.019})
    assert equal.passed
    assert near.passed
    assert not replace(equal, lacks={"fp32": 0.001, "fp16": 0.0}).passed
    assert not replace(equal, lacks={"fp32": 0.0, "fp16": 0.03}).passed
    assert not replace(equal, stage="export").passed
    assert replace(equal, lacks={"steps": 0.0}).passed
    assert not replace(equal, lacks={"steps": 0.01}).passed
    left = Outcome("not built", "a reason", family="c")
    assert summary([equal, near, left]).startswith("2 of 2 families pass, 1 with all")
    results = tmp_path / "results.jsonl"
    assert kept(results) == {}
