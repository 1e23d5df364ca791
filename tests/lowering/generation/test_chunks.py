"""A decoder in several packages says what it says in one, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from frontend.decoder.embedding import embedding_of
from frontend.decoder.part import DecoderLayers, DecoderPart, layers_of
from frontend.decoder.probing import probe
from frontend.decoder.step import rooms
from frontend.errors import AnePassesError, CaptureError
from lowering.cli import main
from lowering.generation import GenerationError, Generator, export_decoder
from lowering.generation.chunks import LIMITS, chunk_limit
from lowering.generation.export import ExportReport
from lowering.generation.settings import functions
from lowering.generation.stepping import Stepper, call_forms
from lowering.generation.verifying import verify_decoder
from lowering.package.folder import stored_bytes
from tests.lowering.generation.families import decoder, gemma3, gpt2, mamba, prompt, qwen3

LIMIT = 300_000


def tied() -> nn.Module:
    return qwen3(tie_word_embeddings=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    path: Path = tmp_path_factory.mktemp("whole") / "m"
    return export_decoder(tied(), path, context=32, prefill=4)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    path: Path = tmp_path_factory.mktemp("chain") / "m.mlpackage"
    return export_decoder(tied(), path, context=32, prefill=4, chunk_bytes=LIMIT)


def test_parts_say_the_bits_of_the_whole(whole: ExportReport, chain: ExportReport):
    assert len(chain.contract.parts) == 2
    one, several = Generator(whole.path), Generator(chain.path)
    ids = prompt(7)
    for turn in (ids, prompt(3, seed=1)):
        assert one.generate(turn, 6) == several.generate(turn, 6)
        assert one.logits is not None and several.logits is not None
        assert np.array_equal(one.logits, several.logits)
    assert one.calls == several.calls
    several.reset()
    one.reset()
    assert one.generate(ids, 3) == several.generate(ids, 3)


def test_no_part_is_larger_and_tables_are_there_once(whole: ExportReport, chain: ExportReport):
    assert chain.path.name == "m.chunks"
    packages = [chain.path / part.file for part in chain.contract.parts]
    assert all(stored_bytes(package) <= LIMIT for package in packages)
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    stored = sum((package / weights).stat().st_size for package in packages)
    # Tables of positions stand in each part; the embedding, 16 kB, does not.
    assert stored < (whole.path / weights).stat().st_size + 12_000


def test_verify_and_the_command_line(chain: ExportReport):
    assert verify_decoder(chain.path, tied())
    assert not verify_decoder(chain.path, qwen3(rms_norm_eps=0.5, tie_word_embeddings=True))
    asked = ["generate", str(chain.path), "--ids", "5,9", "--max-new-tokens", "3", "--json"]
    listed = json.loads(CliRunner().invoke(main, asked, catch_exceptions=False).stdout)
    assert listed["new"] == Generator(chain.path).generate([5, 9], 3)


def test_compressed_parts_are_held_against_the_model(tmp_path: Path):
    limit = 170_000
    made = export_decoder(
        tied(), tmp_path / "m", context=32, prefill=4, chunk_bytes=limit, compress="int8"
    )
    assert [part.layers for part in made.contract.parts] == [(0, 1), (1, 2), (2, 2)]
    found = verify_decoder(made.path, tied())
    assert found and found.compression is not None
    places = {weight.name.partition(":")[0] for weight in found.compression.weights}
    assert {"part 1", "part 2"} <= places and len(found.compression.lost) == 2
    other = qwen3(tie_word_embeddings=True, num_key_value_heads=2)
    with torch.no_grad():
        other.get_parameter("model.layers.1.mlp.up_proj.weight").mul_(-1)
    wrong = verify_decoder(made.path, other)
    assert not wrong and wrong.compression is not None
    faults = [weight.name for weight in wrong.compression.weights if weight.fault]
    assert faults and all(name.startswith("part 2") for name in faults)


@pytest.mark.parametrize(
    ("chunk_bytes", "message"),
    [
        (1000, r"(?s)as small as chunk_bytes.*at least \d{5,} bytes.*1000"),
        (0, r"(?s)no size of a package.*iOS or macOS.*0"),
        ("watchOS", r"(?s)no size of a package.*watchOS"),
    ],
)
def test_sizes_that_cannot_be(chunk_bytes, message: str, tmp_path: Path):
    with pytest.raises(GenerationError, match=message):
        export_decoder(tied(), tmp_path / "m", context=32, chunk_bytes=chunk_bytes)
    assert list(tmp_path.iterdir()) == []


def test_limits_of_systems():
    assert chunk_limit("iOS") == LIMITS["iOS"] < chunk_limit("macOS")


def test_a_failure_leaves_nothing_and_what_stands_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def failing(*_: object, **__: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("lowering.generation.recipe.merge", failing)
    monkeypatch.setattr("lowering.generation.recipe.Recipe.functions", lambda *_: ({}, {}, []))
    with pytest.raises(AnePassesError, match="no space left"):
        export_decoder(tied(), tmp_path / "m", context=32, prefill=0, chunk_bytes=LIMIT)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "m.chunks").mkdir()
    (tmp_path / "m.chunks" / "chain.json").write_text("{}")
    with pytest.raises(GenerationError, match="a folder of parts stands"):
        export_decoder(tied(), tmp_path / "m.mlpackage", context=32, chunk_bytes=LIMIT)
    with pytest.raises(AnePassesError, match="description of its functions"):
        Generator(tmp_path / "m.chunks")


@pytest.mark.parametrize("build", [gpt2, gemma3, mamba])
@pytest.mark.parametrize(("begin", "end", "has_head"), [(0, 1, False), (1, 2, True), (2, 2, True)])
def test_parts_of_families_compute_what_their_layers_do(build, begin, end, has_head):
    model = build()
    found = probe(model)
    part = DecoderPart(layers_of(model, found), begin, end, has_head)
    place = rooms(found, 32, 4, held=range(begin, end))
    outside = embedding_of(model, found) if begin else None
    stepper = Stepper(model, found, place, "state", (), 32, 4, outside, part)
    (decode,) = functions(32, 0, 1)
    stepper.check(decode, call_forms(found)[0])
    kept = {name for name in place.shapes if "state" in name or "cache" in name}
    assert bool(kept) == (begin < end)


def test_layers_are_found_by_what_they_do():
    model = gpt2(n_layer=3)
    found = layers_of(model, probe(model))
    assert found == DecoderLayers(tuple(f"transformer.h.{i}" for i in range(3)), 0, 64)


def test_a_model_with_an_encoder_is_not_cut():
    t5 = decoder("T5ForConditionalGeneration", without=("hidden_size", "head_dim"), d_model=32)
    with pytest.raises(CaptureError, match=r"(?s)cannot be cut.*an encoder"):
        layers_of(t5, probe(t5, 4))
