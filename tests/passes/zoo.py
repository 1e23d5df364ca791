"""Small models of the families that people convert: one layer, narrow, random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import nn

WIDTH, HEADS, TOKENS, VOCABULARY = 16, 2, 8, 40


@dataclass(frozen=True)
class Family:
    """A model and what it is called with; ``draw`` makes fresh inputs from a seed."""

    build: Callable[[], nn.Module]
    draw: Callable[[torch.Generator], dict[str, torch.Tensor]]


def ids(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Token ids (B, S) and a mask whose first row ends in padding."""
    found = torch.randint(2, VOCABULARY, (2, TOKENS), generator=generator)
    mask = torch.ones_like(found)
    mask[0, -3:] = 0
    return {"input_ids": found, "attention_mask": mask}


def unmasked(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Token ids (B, S) alone."""
    return {"input_ids": ids(generator)["input_ids"]}


def pixels(size: int) -> Callable[[torch.Generator], dict[str, torch.Tensor]]:
    """An image (B, 3, H, W)."""
    return lambda generator: {"pixel_values": torch.randn(2, 3, size, size, generator=generator)}


def _config(kind, **options):
    sizes = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_attention_heads": HEADS,
        "num_hidden_layers": 1,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 16,
        "pad_token_id": 0,
    }
    return kind(**{**sizes, **options})


def _vision(kind, **options):
    sizes = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_attention_heads": HEADS,
        "num_hidden_layers": 1,
        "image_size": 16,
        "patch_size": 4,
    }
    return kind(**{**sizes, **options})


def _decoder(kind, **options):
    return _config(kind, num_attention_heads=4, num_key_value_heads=2, use_cache=False, **options)


FAMILIES: dict[str, Family] = {
    "vit": Family(lambda: hf.ViTModel(_vision(hf.ViTConfig)), pixels(16)),
    "gpt2": Family(
        lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(
                n_embd=WIDTH, n_head=HEADS, n_layer=1, n_positions=16, vocab_size=VOCABULARY,
                use_cache=False,
            )
        ),
        ids,
    ),
    "qwen3": Family(lambda: hf.Qwen3ForCausalLM(_decoder(hf.Qwen3Config, head_dim=8)), ids),
    "llama": Family(lambda: hf.LlamaForCausalLM(_decoder(hf.LlamaConfig)), unmasked),
    "clip_vision": Family(
        lambda: hf.CLIPVisionModel(_vision(hf.CLIPVisionConfig)), pixels(16)
    ),
    "mobilenet_v2": Family(
        lambda: hf.MobileNetV2ForImageClassification(
            hf.MobileNetV2Config(depth_multiplier=0.25, image_size=32, num_labels=5)
        ),
        pixels(32),
    ),
    "convnext": Family(
        lambda: hf.ConvNextForImageClassification(
            hf.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_labels=5)
        ),
        pixels(32),
    ),
    "wav2vec2": Family(
        lambda: hf.Wav2Vec2Model(
            _config(
                hf.Wav2Vec2Config,
                conv_dim=(8, 8),
                conv_stride=(5, 2),
                conv_kernel=(10, 3),
                num_feat_extract_layers=2,
                num_conv_pos_embeddings=4,
                num_conv_pos_embedding_groups=2,
            )
        ),
        lambda g: {"input_values": torch.randn(2, 200, generator=g)},
    ),
    "bert": Family(lambda: hf.BertModel(_config(hf.BertConfig)), ids),
    "roberta": Family(
        lambda: hf.RobertaModel(_config(hf.RobertaConfig, pad_token_id=1)), ids
    ),
    "distilbert": Family(
        lambda: hf.DistilBertForSequenceClassification(
            hf.DistilBertConfig(
                dim=WIDTH, n_heads=HEADS, n_layers=1, hidden_dim=2 * WIDTH,
                vocab_size=VOCABULARY, max_position_embeddings=16,
            )
        ),
        ids,
    ),
    "t5_encoder": Family(
        lambda: hf.T5EncoderModel(
            hf.T5Config(
                d_model=WIDTH, d_kv=8, d_ff=2 * WIDTH, num_layers=1, num_heads=HEADS,
                vocab_size=VOCABULARY,
            )
        ),
        ids,
    ),
    "whisper_encoder": Family(
        lambda: hf.models.whisper.modeling_whisper.WhisperEncoder(
            hf.WhisperConfig(
                d_model=WIDTH, encoder_layers=1, encoder_attention_heads=HEADS,
                encoder_ffn_dim=2 * WIDTH, max_source_positions=12, num_mel_bins=8,
                decoder_layers=1, decoder_attention_heads=HEADS, vocab_size=VOCABULARY,
                pad_token_id=0, bos_token_id=1, eos_token_id=1, decoder_start_token_id=1,
            )
        ),
        lambda g: {"input_features": torch.randn(2, 8, 24, generator=g)},
    ),
    "swin": Family(
        lambda: hf.SwinModel(
            hf.SwinConfig(
                image_size=32, patch_size=2, embed_dim=8, depths=[2], num_heads=[2],
                window_size=4,
            )
        ),
        pixels(32),
    ),
}  # fmt: skip


def family(name: str, attention: str = "sdpa") -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The model, its weights well away from what initialisation leaves at 0 or 1, and inputs."""
    torch.manual_seed(0)
    model: Any = FAMILIES[name].build().eval()
    if attention != "sdpa":
        model.set_attn_implementation(attention)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        for key, buffer in model.named_buffers():
            if key.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
            elif key.endswith("running_mean"):
                buffer.normal_()
    return model, fresh(name, seed=0)


def fresh(name: str, seed: int) -> dict[str, torch.Tensor]:
    """Inputs of the same shapes for every seed."""
    return FAMILIES[name].draw(torch.Generator().manual_seed(seed))
