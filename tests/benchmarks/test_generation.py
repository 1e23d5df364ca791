"""The benchmark of generation builds what it says and finds what differs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.generation import FAMILIES, build, compared
from lowering.generation.export import export_decoder


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_built(name: str):
    model = build(name)
    assert not model.training
    with torch.no_grad():
        assert model(input_ids=torch.tensor([[5, 9]])).logits.std() > 0.01


def test_other_weights_are_told_apart(tmp_path: Path):
    model = build("llama")
    report = export_decoder(model, tmp_path / "m", context=96, prefill=16)
    assert not compared(model, report.path, "fp32").startswith("differs at 0")
    with torch.no_grad():
        model.get_parameter("lm_head.weight").mul_(-1.0)
    assert compared(model, report.path, "fp32").startswith("differs at 0")
