"""Decoders become packages that say the same tokens."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from lowering.generation import GenerationError, Generator, export_decoder
from lowering.generation.export import ExportReport
from lowering.generation.reference import Reference
from lowering.generation.stepping import checked_tokens
from lowering.reference import load
from tests.lowering.generation.families import gemma3, gpt2, greedy, mamba, prompt, qwen3


def test_states_are_two_written_once_behind_all_layers(exported: ExportReport):
    decode = load(exported.path, function="decode")
    assert list(decode.make_state()) == ["key_cache", "value_cache"]
    kinds = Counter(op.type for op in decode.ops)
    for kind in ("read_state", "slice_update", "write_state"):
        assert kinds[kind] == 2  # keys and values, of two layers at once
    assert not any("scatter" in kind for kind in kinds)
    writes = [index for index, op in enumerate(decode.ops) if op.type == "write_state"]
    softmaxes = [i for i, op in enumerate(decode.ops) if "scaled_dot" in op.type]
    assert softmaxes[1] < writes[0]


def test_runs_of_tokens_are_written_layer_by_layer(exported: ExportReport):
    prefill = load(exported.path, function="prefill")
    kinds = Counter(op.type for op in prefill.ops)
    assert kinds["slice_update"] == kinds["write_state"] == 4  # keys and values of two layers
    writes = [index for index, op in enumerate(prefill.ops) if op.type == "write_state"]
    softmaxes = [i for i, op in enumerate(prefill.ops) if "scaled_dot" in op.type]
    assert writes[1] < softmaxes[0] < writes[2] < softmaxes[1]


def test_functions_share_their_weights(model: nn.Module, exported: ExportReport):
    weights = 2 * sum(p.numel() for p in model.parameters())
    blobs = exported.path / "Data/com.apple.CoreML/weights/weight.bin"
    assert blobs.stat().st_size < 1.03 * weights + 20_000
    assert exported.size < 1.03 * weights + 150_000 * len(exported.contract.steps)
    assert set(exported.contract.steps) == {"decode", "decode_4", "prefill"}


@pytest.mark.parametrize("build", [gpt2, gemma3, mamba])
def test_families_say_the_same_tokens(build, tmp_path: Path):
    model = build()
    report = export_decoder(model, tmp_path / "m", context=64, prefill=8, precision="fp32")
    ids = prompt(11)
    assert Generator(report.path, precision="fp32").generate(ids, 45) == greedy(model, ids, 45)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("form", ["state-blend", "io"])
@pytest.mark.parametrize("build", [qwen3, gemma3])
def test_other_forms_of_the_cache(form, build, tmp_path: Path):
    model = build()
    report = export_decoder(model, tmp_path / "m", context=40, prefill=8, cache=form)
    ids = prompt(11)
    assert Generator(report.path, precision="fp32").generate(ids, 25) == greedy(model, ids, 25)
    function = load(report.path, function="decode")
    if form == "io":
        assert list(function.make_state()) == []
        assert {"key_cache", "value_cache"} <= set(function.inputs)
        assert {"key_cache_new", "value_cache_new"} <= set(function.outputs)


def test_windows_go_round_in_rings(tmp_path: Path):
    report = export_decoder(gemma3(), tmp_path / "m", context=64, prefill=8)
    assert report.contract.rings == (32,)  # a window of 16 and a step of 8, aligned
    assert report.contract.states["key_cache"] == (1, 2, 32 + 64, 16)
    whole = export_decoder(gemma3(), tmp_path / "whole", context=64, prefill=8, window="full")
    assert whole.contract.rings == ()
    assert whole.contract.states["key_cache"] == (2, 2, 64, 16)


def test_a_short_context_is_a_function_of_its_own(tmp_path: Path):
    model = qwen3()
    report = export_decoder(model, tmp_path / "m", context=(64, 32), prefill=0)
    generator = Generator(report.path, precision="fp32")
    ids = prompt(20)
    assert generator.generate(ids, 25) == greedy(model, ids, 25)
    assert generator.calls == {"decode_of_32": 32, "decode": 12}


def test_a_recurrent_layer_that_starts_anew_is_not_fed_runs_later(tmp_path: Path):
    model = mamba()
    report = export_decoder(model, tmp_path / "m", context=64, prefill=8, precision="fp32")
    assert report.contract.steps["prefill"].from_start
    assert not report.contract.steps["prefill"].padded
    generator = Generator(report.path, precision="fp32")
    ids = prompt(21)
    assert generator.generate(ids, 20) == greedy(model, ids, 20)
    assert generator.calls == {"prefill": 1, "decode": 13 + 19}


def test_a_cache_that_is_used_wrongly_is_found(model: nn.Module, monkeypatch, tmp_path: Path):
    from frontend.decoder import store

    original = store.Places.start
    monkeypatch.setattr(store.Places, "start", lambda self, length: original(self, length) * 0)
    with pytest.raises(GenerationError, match="says something else than without"):
        export_decoder(model, tmp_path / "m", context=32, prefill=0)
    assert list(tmp_path.iterdir()) == []


def test_reference_measures_in_standard_deviations(model: nn.Module):
    from frontend.decoder.probing import probe
    from frontend.decoder.step import rooms

    decoder = probe(model)
    assert checked_tokens(rooms(decoder, 64, 8), 5) == 5
    reference = Reference(model, decoder, 6)
    assert reference.error(reference.logits[2:4], 2) == 0
    shifted = reference.logits[2:4] + reference.logits.std()
    assert reference.error(shifted, 2) == pytest.approx(1, rel=1e-4)
    assert torch.isfinite(reference.logits).all()
