"""Embeddings beside the package: who reads the ids, the file, and what can be wrong with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from frontend.decoder.embedding import ROWS, embedding_of
from frontend.decoder.probing import probe
from frontend.decoder.step import CallForm, rooms
from frontend.errors import CaptureError
from lowering import verify
from lowering.cli import main
from lowering.compression.compressing import compress
from lowering.generation import GenerationError, Generator, export_decoder
from lowering.generation.export import ExportReport
from lowering.generation.settings import functions
from lowering.generation.stepping import Stepper
from lowering.generation.table import placed, write_table
from lowering.generation.verifying import verify_decoder
from lowering.reference import load
from tests.lowering.generation.families import (
    VOCABULARY,
    decoder,
    gemma3,
    gpt2,
    greedy,
    mamba,
    prompt,
    qwen3,
)


def small_gemma() -> nn.Module:
    return gemma3(num_hidden_layers=1, layer_types=["full_attention"])


@pytest.fixture(scope="module")
def scaled() -> nn.Module:
    """Its embedding multiplies its rows, and shares its table with the head."""
    return small_gemma()


@pytest.fixture(scope="module")
def apart(scaled: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    path: Path = tmp_path_factory.mktemp("apart") / "gemma.mlpackage"
    return export_decoder(scaled, path, context=48, prefill=8, embeddings="apart")


def table_of(report: ExportReport) -> Path:
    assert report.contract.table is not None
    return report.path.with_name(report.contract.table.file)


def test_tokens_come_from_rows_of_the_file(scaled: nn.Module, apart: ExportReport):
    ids = prompt(11)
    generator = Generator(apart.path, precision="fp32")
    assert generator.generate(ids, 24) == greedy(scaled, ids, 24)
    assert set(generator.calls) == {"prefill", "decode"}
    rows = np.load(table_of(apart))
    assert rows.dtype == np.float16 and rows.shape == (VOCABULARY, 64)
    expected = scaled.get_submodule("model.embed_tokens")(torch.arange(VOCABULARY)).detach()
    assert np.array_equal(rows, expected.numpy().astype(np.float16))


def test_the_program_takes_rows_and_keeps_its_head(apart: ExportReport):
    decode = load(apart.path, function="decode")
    assert ROWS in decode.inputs and "input_ids" not in decode.inputs
    weights = apart.path / "Data/com.apple.CoreML/weights/weight.bin"
    assert weights.stat().st_size > 2 * VOCABULARY * 64  # the tied head


def test_verify_and_the_command_line(scaled: nn.Module, apart: ExportReport):
    assert verify(apart.path, scaled)
    wrong = small_gemma()
    with torch.no_grad():
        wrong.get_parameter("model.embed_tokens.weight").mul_(1.3)
    assert not verify_decoder(apart.path, wrong, locate=False)
    arguments = ["generate", str(apart.path), "--ids", "5,9", "--max-new-tokens", "3", "--json"]
    listed = json.loads(CliRunner().invoke(main, arguments, catch_exceptions=False).stdout)
    assert listed["new"] == Generator(apart.path).generate([5, 9], 3)


def test_a_compressed_package_uses_the_same_file(apart: ExportReport):
    smaller = apart.path.with_name("smaller.mlpackage")
    compress(apart.path, "int8", smaller)
    assert len(Generator(smaller).generate(prompt(4), 3)) == 3


@pytest.mark.parametrize("damage", ["missing", "shape", "rows", "no array"])
def test_the_file_must_be_the_packages_own(apart: ExportReport, damage: str, tmp_path: Path):
    package = tmp_path / apart.path.name
    shutil.copytree(apart.path, package)
    table = tmp_path / table_of(apart).name
    rows = np.load(table_of(apart))
    if damage == "shape":
        np.save(table, rows[1:])
    elif damage == "rows":
        np.save(table, rows + 1)
    elif damage == "no array":
        table.write_text("rows")
    with pytest.raises(GenerationError, match=r"(?s)table of embeddings.*copy the file"):
        Generator(package)


def test_what_stands_there_is_kept(scaled: nn.Module, tmp_path: Path):
    (tmp_path / "m.embeddings.npy").write_text("mine")
    with pytest.raises(GenerationError, match="a file stands where the table"):
        export_decoder(scaled, tmp_path / "m", context=32, embeddings="apart")
    with pytest.raises(GenerationError, match=r"(?s)no such place.*beside"):
        export_decoder(scaled, tmp_path / "n", context=32, embeddings="beside")  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["m.embeddings.npy"]


def test_a_failure_puts_the_old_file_back(tmp_path: Path):
    made, target = tmp_path / "made", tmp_path / "target"
    made.write_text("new")
    target.write_text("old")
    with pytest.raises(OSError), placed(made, target):
        assert target.read_text() == "new"
        raise OSError
    assert target.read_text() == "old" and not made.exists()


BART = {"d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64}


def bart() -> nn.Module:
    """Scales the rows in its embedding; the encoder has the same table."""
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "scale_embedding": True}
    without = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return decoder(
        "BartForConditionalGeneration",
        without=(*without, "num_key_value_heads", "head_dim"),
        **BART,
        **heads,
        decoder_ffn_dim=64,
    )


@pytest.mark.parametrize("build", [qwen3, gpt2, mamba, bart])
def test_any_family_can_be_given_rows(build):
    model = build()
    found = probe(model, 6 if build is bart else None)
    place = rooms(found, 32, 4)
    stepper = Stepper(model, found, place, "state", (), 32, 4, embedding_of(model, found))
    for function in functions(32, 4, 1):
        stepper.check(function, CallForm(build is qwen3, False))
    assert all("forward" not in vars(module) for module in model.modules())


class Peeking(nn.Module):
    """Reads the ids twice: what a row from outside cannot stand for."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = qwen3()

    def get_input_embeddings(self) -> nn.Module:
        return self.inner.get_submodule("model.embed_tokens")

    def forward(self, input_ids, past_key_values=None, use_cache=True, position_ids=None):
        result = self.inner(
            input_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            position_ids=position_ids,
        )
        result.logits = result.logits + 3.0 * (input_ids % 5).unsqueeze(2)
        return result


def test_a_model_that_reads_ids_elsewhere_is_refused(tmp_path: Path):
    with pytest.raises(GenerationError, match=r"(?s)decode.*reads token ids in more places"):
        export_decoder(Peeking().eval(), tmp_path / "m", context=32, embeddings="apart")
    assert list(tmp_path.iterdir()) == []


class Mixing(nn.Embedding):
    """Rows that know their neighbours."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids).cumsum(1)


def test_rows_that_know_their_neighbours_are_refused():
    model = qwen3()
    mixing = Mixing(VOCABULARY, 64)
    model.set_input_embeddings(mixing)
    with pytest.raises(CaptureError, match="depend on more than the token"):
        embedding_of(model, probe(model))


def test_numbers_too_large_for_the_file(tmp_path: Path):
    model = qwen3()
    with torch.no_grad():
        model.get_parameter("model.embed_tokens.weight")[7] = 1e5
    embedding = embedding_of(model, probe(model))
    with pytest.raises(GenerationError, match=r"(?s)at most 65504.*100000 among tokens 0 to 127"):
        write_table(embedding, tmp_path / "t.npy", "float16")
    assert write_table(embedding, tmp_path / "u.npy", "float32").width == 64
