"""The benchmark of generation builds what it says and finds what differs."""

from __future__ import annotations

import pytest
import torch

from benchmarks.generation import ENCODERS, FAMILIES, build, measured
from benchmarks.generation_families import TURNS


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_built(name: str):
    model = build(name)
    assert not model.training
    with torch.no_grad():
        assert model(input_ids=torch.tensor([[5, 9]])).logits.std() > 0.01


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_read_sources_of_two_lengths(name: str):
    tiny = measured(name)
    assert tiny.source is not None
    sources = [tiny.read(turn.shorter) for turn in TURNS]
    assert any(not torch.equal(sources[0], other) for other in sources[1:])
