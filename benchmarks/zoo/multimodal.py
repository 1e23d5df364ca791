"""Models of text and images, and the parts of diffusion pipelines."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.zoo.entry import (
    VOCABULARY,
    Draw,
    Entry,
    Inputs,
    both,
    floats,
    hf,
    image,
    masked_ids,
)

_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_VISION: dict[str, Any] = {"num_hidden_layers": 2}
_PAIR = both(masked_ids(64), image())

MULTIMODAL: tuple[Entry, ...] = (
    hf("clip", "CLIPModel", _PAIR, text_config=_TEXT, vision_config=_VISION),
    hf("siglip", "SiglipModel", _PAIR, text_config=_TEXT, vision_config=_VISION),
    hf(
        "blip2-qformer",
        "Blip2QFormerModel",
        floats(query_embeds=(1, 32, 768), encoder_hidden_states=(1, 257, 1408)),
        num_hidden_layers=2,
    ),
    hf(
        "trocr-decoder",
        "TrOCRForCausalLM",
        masked_ids(32),
        vocab_size=VOCABULARY,
        decoder_layers=2,
        use_cache=False,
        is_decoder=True,
    ),
    hf(
        "videomae",
        "VideoMAEModel",
        floats(pixel_values=(1, 4, 3, 112, 112)),
        num_hidden_layers=2,
        image_size=112,
        num_frames=4,
    ),
    hf(
        "decision-transformer",
        "DecisionTransformerModel",
        lambda _: {
            "states": torch.randn(1, 20, 17),
            "actions": torch.randn(1, 20, 4),
            "rewards": torch.randn(1, 20, 1),
            "returns_to_go": torch.randn(1, 20, 1),
            "timesteps": torch.arange(20)[None],
            "attention_mask": torch.ones(1, 20),
        },
        n_layer=2,
    ),
    hf(
        "patchtst",
        "PatchTSTModel",
        floats(past_values=(1, 96, 7)),
        num_input_channels=7,
        context_length=96,
        num_hidden_layers=2,
    ),
)


def _diffusers(name: str, kind: str, draw: Draw, *, part: str = "", **options: object) -> Entry:
    """A model class of diffusers."""

    def build() -> nn.Module:
        import diffusers

        return getattr(diffusers, kind)(**options).get_submodule(part)

    return Entry(name, build, draw, ("diffusers",))


def _step(*shape: int, width: int = 0) -> Draw:
    """A noisy sample, a time step and, if ``width`` is given, 77 embedded tokens."""

    def draw(_: nn.Module) -> Inputs:
        prompt = {"encoder_hidden_states": torch.randn(1, 77, width)} if width else {}
        return {"sample": torch.randn(shape), "timestep": torch.randint(0, 1000, (1,)), **prompt}

    return draw


_BLOCKS: dict[str, Any] = {"block_out_channels": (64, 128), "layers_per_block": 1}
_VAE: dict[str, Any] = {
    **_BLOCKS,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}


def _dit(_: nn.Module) -> Inputs:
    return {
        "hidden_states": torch.randn(1, 4, 32, 32),
        "timestep": torch.randint(0, 1000, (1,)),
        "class_labels": torch.randint(0, 1000, (1,)),
    }


def _sd3(_: nn.Module) -> Inputs:
    return {
        "hidden_states": torch.randn(1, 16, 32, 32),
        "timestep": torch.rand(1) * 1000,
        "encoder_hidden_states": torch.randn(1, 77, 256),
        "pooled_projections": torch.randn(1, 256),
    }


def _flux(_: nn.Module) -> Inputs:
    return {
        "hidden_states": torch.randn(1, 64, 16),
        "timestep": torch.rand(1),
        "encoder_hidden_states": torch.randn(1, 32, 256),
        "pooled_projections": torch.randn(1, 256),
        "img_ids": torch.rand(64, 3),
        "txt_ids": torch.zeros(32, 3),
        "guidance": torch.rand(1),
    }


DIFFUSION: tuple[Entry, ...] = (
    _diffusers(
        "unet2d",
        "UNet2DModel",
        _step(1, 3, 64, 64),
        sample_size=64,
        **_BLOCKS,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ),
    _diffusers(
        "unet2d-condition",
        "UNet2DConditionModel",
        _step(1, 4, 32, 32, width=256),
        cross_attention_dim=256,
        **_BLOCKS,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ),
    _diffusers(
        "vae-encoder",
        "AutoencoderKL",
        floats(sample=(1, 3, 128, 128)),
        part="encoder",
        **_VAE,
    ),
    _diffusers(
        "vae-decoder",
        "AutoencoderKL",
        floats(sample=(1, 4, 32, 32)),
        part="decoder",
        **_VAE,
    ),
    _diffusers("vae-tiny", "AutoencoderTiny", floats(x=(1, 4, 32, 32)), part="decoder"),
    _diffusers(
        "dit",
        "DiTTransformer2DModel",
        _dit,
        num_layers=2,
        num_attention_heads=6,
        attention_head_dim=64,
        sample_size=32,
    ),
    _diffusers(
        "sd3",
        "SD3Transformer2DModel",
        _sd3,
        num_layers=2,
        num_attention_heads=4,
        attention_head_dim=64,
        sample_size=32,
        joint_attention_dim=256,
        caption_projection_dim=256,
        pooled_projection_dim=256,
    ),
    _diffusers(
        "flux",
        "FluxTransformer2DModel",
        _flux,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        num_attention_heads=4,
        attention_head_dim=64,
        joint_attention_dim=256,
        pooled_projection_dim=256,
        axes_dims_rope=(16, 24, 24),
        guidance_embeds=True,
    ),
)
