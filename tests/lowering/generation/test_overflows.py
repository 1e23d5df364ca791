"""An export knows of a decoder's values that float16 has no room for, and keeps them apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from frontend.decoder.probing import probe
from frontend.decoder.step import rooms
from lowering.generation import Generator, export_decoder
from lowering.generation.export import decode_pipeline
from lowering.generation.settings import functions
from lowering.generation.stepping import Stepper
from lowering.precision.safe import PrecisionWarning
from tests.lowering.generation.families import gpt2, greedy, mamba, prompt, qwen3


def large(build, name: str, factor: float) -> torch.nn.Module:
    """A decoder with one weight so large that what follows from it leaves float16."""
    model = build(**({"n_layer": 1} if build is gpt2 else {"num_hidden_layers": 1}))
    with torch.no_grad():
        model.get_parameter(name).mul_(factor)
    return model


@pytest.mark.parametrize(
    ("build", "name", "factor"),
    [
        (qwen3, "model.layers.0.mlp.down_proj.weight", 1e6),
        (gpt2, "transformer.h.0.mlp.c_proj.weight", 1e6),
        (mamba, "backbone.layers.0.mixer.out_proj.weight", 1e7),
        (qwen3, "model.layers.0.mlp.down_proj.weight", 1.0),
        (gpt2, "transformer.h.0.mlp.c_proj.weight", 1.0),
        (mamba, "backbone.layers.0.mixer.out_proj.weight", 1.0),
    ],
)
def test_the_places_are_named(build, name: str, factor: float):
    model = large(build, name, factor)
    decoder = probe(model)
    made = Stepper(model, decoder, rooms(decoder, 32, 1), "state", decode_pipeline(32), 32, 1)
    overflows = made.program(functions(32, 0, 1)[0]).overflows
    assert bool(overflows) is (factor > 1)
    assert all(found.largest > 65504 for found in overflows)
    places = {found.source.module for found in overflows}
    assert any(place in name for place in places) is (factor > 1)


@pytest.mark.parametrize(
    ("build", "name", "factor"),
    [
        (qwen3, "model.layers.0.mlp.down_proj.weight", 1e6),
        (mamba, "backbone.layers.0.mixer.out_proj.weight", 1e7),  # its states grow
    ],
)
def test_it_is_told_and_safe_keeps_it_in_float32(build, name: str, factor: float, tmp_path: Path):
    model = large(build, name, factor)
    ids = prompt(3)
    with pytest.warns(PrecisionWarning, match=rf"65504.*decode reaches.*{name[-15:-7]}.*safe"):
        report = export_decoder(model, tmp_path / "m", context=32, prefill=0)
    assert report.overflows
    safe = export_decoder(model, tmp_path / "s", context=32, prefill=0, precision="safe")
    assert Generator(safe.path).generate(ids, 6) == greedy(model, ids, 6)
