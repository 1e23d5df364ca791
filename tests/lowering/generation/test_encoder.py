"""Models with an encoder: its keys and values are computed once and kept in the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from frontend.decoder.packing import Extent, pack
from frontend.decoder.probing import probe
from frontend.decoder.step import CallForm, rooms
from frontend.errors import AnePassesError
from lowering.cli import main
from lowering.generation import GenerationError, Generator, export_decoder
from lowering.generation.settings import functions
from lowering.generation.stepping import Stepper
from lowering.reference import load
from tests.lowering.generation.families import prompt

_ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": 128}
_BART = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}


def built(name: str, **options) -> nn.Module:
    import transformers

    torch.manual_seed(2)
    cls = getattr(transformers, f"{name}ForConditionalGeneration")
    model: nn.Module = cls(cls.config_class(**{**_ENDS, **options})).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and parameter_name.endswith("weight"):
                parameter.mul_(3.0)
    return model


def t5(**options) -> nn.Module:
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 1, "num_heads": 2}
    return built("T5", **{**sizes, **options})


def bart() -> nn.Module:
    return built("Bart", max_position_embeddings=64, **_BART)


def whisper() -> nn.Module:
    sizes = {"num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 64}
    return built("Whisper", decoder_start_token_id=3, **sizes, **_BART)


def test_a_text_is_read_once_and_its_padding_is_hidden(tmp_path: Path):
    model = t5()
    package = export_decoder(model, tmp_path / "m", context=32, prefill=4, source=12).path
    kinds = [op.type for op in load(package, function="decode").ops]
    assert kinds.count("slice_update") == 2  # keys and values of its own, none of the source
    generator = Generator(package, precision="fp32")
    ids = [0, *prompt(5)]
    for count, seed in ((12, 1), (5, 2)):  # the second is shorter, and what was there is forgotten
        source = prompt(count, seed)
        generator.encode(source)
        generator.feed(ids)
        with torch.no_grad():
            expected = model(
                input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([ids])
            ).logits[0, -1]
        error = np.abs(generator.logits - expected.numpy()).max()
        assert error < 0.02 * float(expected.std())  # weights are float16
    assert generator.calls == {"encode": 1, "prefill": 2}


def test_sound_goes_through_inputs_and_outputs(tmp_path: Path):
    model = whisper()
    example = torch.randn(1, 8, 40)
    report = export_decoder(
        model, tmp_path / "m", context=32, prefill=0, source=example, cache="io", precision="fp32"
    )
    assert report.contract.states["key_cache"][2] == 32 + 32  # 20 places of the source, aligned
    generator = Generator(report.path, precision="fp32")
    with pytest.raises(GenerationError, match="has read nothing yet"):
        generator.generate([3], 2)
    with pytest.raises(GenerationError, match=r"(?s)does not fit the encoder.*\(1, 8, 40\)"):
        generator.encode(np.zeros((1, 8, 30)))
    sound = torch.randn(1, 8, 40)
    np.save(tmp_path / "sound.npy", sound.numpy())
    ids = torch.tensor([[3]])
    for _ in range(12):
        with torch.no_grad():
            logits = model(input_features=sound, decoder_input_ids=ids, use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
    options = ["--ids", "3", "--source", str(tmp_path / "sound.npy"), "--run-as", "fp32"]
    call = ["generate", str(report.path), "--max-new-tokens", "12", *options]
    shown = CliRunner().invoke(main, call)
    assert shown.stdout.split() == [str(token) for token in ids[0, 1:].tolist()]


@pytest.mark.parametrize("build", [t5, bart, whisper])
@pytest.mark.parametrize("form", ["state", "state-blend", "io"])
def test_families_fit(build, form):
    model = build()
    decoder = probe(model, torch.zeros(1, 8, 40) if build is whisper else 12)
    made = Stepper(model, decoder, rooms(decoder, 32, 4), form, (), 32, 4)
    for function in functions(32, 4, 1):
        made.check(function, CallForm(False, False))


def test_a_wrong_cache_of_the_source_is_found():
    model = t5()
    decoder = probe(model, 12)
    made = Stepper(model, decoder, rooms(decoder, 32, 4), "state", (), 32, 4)
    made._start["value_cache"].mul_(-1)
    with pytest.raises(GenerationError, match="something else than without"):
        made.check(functions(32, 0, 1)[0], CallForm(False, False))


@pytest.mark.parametrize(
    ("build", "source", "message"),
    [
        (t5, None, r"(?s)has an encoder.*source=N, a number of tokens.*nothing"),
        (t5, 0, "source is out of range"),
        (t5, torch.zeros(1, 4), "source=N, a number of tokens"),
        (whisper, 12, "source=TENSOR, an example of input_features"),
        (whisper, torch.zeros(1, 8, 30), r"(?s)cannot be called on input_features.*"),
    ],
)
def test_sources_that_do_not_fit(build, source, message: str, tmp_path: Path):
    with pytest.raises(AnePassesError, match=message):
        export_decoder(build(), tmp_path / "m", context=32, prefill=0, source=source)
    assert list(tmp_path.iterdir()) == []


def test_a_package_without_an_encoder_reads_no_source(exported):
    with pytest.raises(GenerationError, match="has no encoder"):
        Generator(exported.path).encode([1, 2])


def test_slots_keep_their_lengths_on_aligned_axes():
    packing = pack([Extent(2, 64, 16), Extent(2, 20, 16), Extent(2, 20, 16)])
    assert packing.shape == (1, 2, 128, 16)
    assert [slot.offset for slot in packing.slots] == [0, 64, 96]
    assert pack([Extent(2, 20, 16)] * 2).shape == (2, 2, 32, 16)
