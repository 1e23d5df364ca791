"""Tiny decoders of several families, with spread logits and few layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

VOCABULARY = 128

_SIZES: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def decoder(name: str, without: tuple[str, ...] = (), **options) -> nn.Module:
    """``transformers.<name>`` with random weights, large enough for spread logits."""
    import transformers

    cls = getattr(transformers, name)
    sizes = {key: value for key, value in _SIZES.items() if key not in without}
    torch.manual_seed(1)
    model: nn.Module = cls(cls.config_class(**{**sizes, **options})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and name.endswith("weight"):
                parameter.mul_(3.0)
    return model


def qwen3(**options) -> nn.Module:
    """Rotary positions, grouped keys, norms of heads."""
    return decoder("Qwen3ForCausalLM", **options)


def gpt2(**options) -> nn.Module:
    """Learned positions, tied embeddings."""
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
    return decoder("GPT2LMHeadModel", without=tuple(_SIZES)[1:8], **{**sizes, **options})


def gemma3(**options) -> nn.Module:
    """A layer with a window beside one without."""
    layers = ["sliding_attention", "full_attention"]
    given = {"sliding_window": 16, "layer_types": layers, "query_pre_attn_scalar": 16, **options}
    return decoder("Gemma3ForCausalLM", **given)


def mamba(**options) -> nn.Module:
    """No attention: states of a convolution and of a recurrence."""
    sizes = {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2, "time_step_rank": 4}
    keep = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")
    without = tuple(name for name in _SIZES if name not in keep)
    return decoder("MambaForCausalLM", without=without, **{**sizes, **options})


def greedy(model, ids: list[int], count: int) -> list[int]:
    """What transformers' own ``generate`` continues ``ids`` with."""
    with torch.no_grad():
        found = model.generate(
            torch.tensor([ids]),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return found[0].tolist()[len(ids) :]


def prompt(count: int, seed: int = 0) -> list[int]:
    """Random token ids."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (count,), generator=draw).tolist()
