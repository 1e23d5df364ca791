"""What functions return: all logits, those of one token, or the likeliest tokens alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lowering.generation import GenerationError, Generator, Sampling, export_decoder
from lowering.generation.reference import Reference
from lowering.generation.settings import functions
from lowering.generation.swift import write_swift
from lowering.generation.verifying import verify_decoder
from lowering.reference import load
from tests.lowering.generation.families import greedy, prompt, qwen3


@pytest.mark.parametrize(
    ("logits", "last", "best"),
    [
        ("needed", (False, False, True), None),
        ("all", (False, False, False), None),
        ("last", (False, True, True), None),
        ("argmax", (False, False, True), 1),
        ("topk:8", (False, False, True), 8),
    ],
)
def test_forms(logits: str, last: tuple[bool, ...], best: int | None):
    found = functions(32, 8, (1, 4), logits)
    assert [step.name for step in found] == ["decode", "decode_4", "prefill"]
    assert tuple(step.last for step in found) == last
    assert {step.best for step in found} == {best}
    assert [step.pads for step in found] == [False, False, True]


@pytest.mark.parametrize("logits", ["none", "topk", "topk:0", "topk:x", "argmax:2", ""])
def test_other_forms_are_refused(logits: str):
    with pytest.raises(GenerationError, match="no such form of the logits"):
        functions(32, 8, 1, logits)


@pytest.mark.parametrize("logits", ["argmax", "topk:5", "all"])
def test_the_best_are_chosen_in_the_package(logits: str, tmp_path: Path):
    model = qwen3(num_hidden_layers=1)
    report = export_decoder(model, tmp_path / "m", context=32, prefill=4, logits=logits, head=100)
    ids, generator = prompt(7), Generator(report.path, precision="fp32")
    expected = greedy(model, ids, 9)
    assert generator.generate(ids, 9) == expected
    prefill = load(report.path, function="prefill")
    assert sum(op.type == "conv" for op in prefill.ops) == 5 + 2  # 128 logits in two tiles
    outputs = set(prefill.outputs)
    assert generator.logits is not None
    known = int(np.isfinite(generator.logits).sum())
    assert (outputs, known) == {
        "argmax": ({"tokens"}, 1),
        "topk:5": ({"logits", "tokens"}, 5),
        "all": ({"logits"}, 128),
    }[logits]
    assert verify_decoder(report.path, model, steps=6).passed
    assert write_swift(report.path, report.contract) is None
    if logits == "argmax":
        with pytest.raises(GenerationError, match="likeliest token alone"):
            generator.generate([5], 2, sampling=Sampling(temperature=1.0))
    else:
        drawn = generator.generate([5], 3, sampling=Sampling(temperature=1.0, top_k=5))
        assert len(drawn) == 3
    with torch.no_grad():
        model.get_parameter("model.norm.weight")[:32].mul_(-1)
    assert not verify_decoder(report.path, model, steps=2, locate=False).passed


def test_best_tokens_are_as_good_as_their_logits():
    reference = Reference.__new__(Reference)
    reference.logits = torch.tensor([[0.0, 3.0, 1.0, 2.0], [4.0, 0.0, 1.0, 3.0]])
    reference._unit = 2.0
    best = torch.tensor([[1, 3], [0, 3]])
    assert reference.error_of({"tokens": best}, 0) == 0
    assert reference.error_of({"tokens": best[:, :1]}, 0) == 0
    assert reference.error_of({"tokens": torch.tensor([[2], [0]])}, 0) == 1.0
    wrong = {"tokens": best, "logits": torch.tensor([[3.0, 2.0], [4.0, 2.0]])}
    assert reference.error_of(wrong, 0) == 0.5


def test_more_than_the_vocabulary_is_refused(tmp_path: Path):
    with pytest.raises(GenerationError, match="more of the likeliest tokens"):
        export_decoder(qwen3(num_hidden_layers=1), tmp_path / "m", context=32, logits="topk:129")
    assert list(tmp_path.iterdir()) == []
