"""Speech and audio: encoders, CTC, decoders, codecs, synthesis."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.zoo.entry import VOCABULARY, Draw, Entry, Inputs, both, decoder_ids, floats, hf

_WAVE = floats(input_values=(1, 16_000))
_LAYERS: dict[str, Any] = {"num_hidden_layers": 2}
_WHISPER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 384,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "decoder_ffn_dim": 1536,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


def _mel(frames: int, bands: int, name: str = "input_features") -> Draw:
    """Mel features (1, frames, bands)."""
    return floats(**{name: (1, frames, bands)})


def _encoded(_: nn.Module) -> Inputs:
    """What a Whisper decoder takes: 48 tokens and the encoder's 1,500 positions."""
    return {
        "input_ids": torch.randint(10, VOCABULARY, (1, 48)),
        "encoder_hidden_states": torch.randn(1, 1500, 384),
    }


SPEECH: tuple[Entry, ...] = (
    hf("whisper-decoder", "WhisperModel", _encoded, part="decoder", **_WHISPER),
    hf(
        "whisper",
        "WhisperForConditionalGeneration",
        both(floats(input_features=(1, 80, 3000)), decoder_ids(32)),
        **_WHISPER,
    ),
    hf(
        "moonshine-encoder",
        "MoonshineModel",
        _WAVE,
        part="encoder",
        encoder_num_hidden_layers=2,
        vocab_size=VOCABULARY,
    ),
    hf("wav2vec2", "Wav2Vec2Model", _WAVE, **_LAYERS),
    hf(
        "wav2vec2-bert",
        "Wav2Vec2BertModel",
        _mel(100, 160),
        **_LAYERS,
        hidden_size=512,
        num_attention_heads=8,
        intermediate_size=2048,
    ),
    hf("wavlm", "WavLMModel", _WAVE, **_LAYERS),
    hf(
        "audio-spectrogram-transformer",
        "ASTModel",
        _mel(512, 128, "input_values"),
        **_LAYERS,
        max_length=512,
    ),
    hf(
        "clap-audio",
        "ClapAudioModel",
        floats(input_features=(1, 1, 1001, 64)),
        depths=[1, 1, 1, 1],
        enable_fusion=False,
    ),
    hf("encodec-encoder", "EncodecModel", floats(hidden_states=(1, 1, 24_000)), part="encoder"),
    hf("encodec-decoder", "EncodecModel", floats(hidden_states=(1, 128, 75)), part="decoder"),
    hf("dac-decoder", "DacModel", floats(hidden_state=(1, 1024, 32)), part="decoder"),
    hf("hifigan", "SpeechT5HifiGan", floats(spectrogram=(1, 64, 80))),
)
