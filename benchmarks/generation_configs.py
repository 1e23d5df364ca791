"""Tiny models of every decoder family that the installed transformers knows.

Names are those of its registry, and so are the classes: nothing here lists families. A family's own
configuration is made small by what its numbers are called (``_SIZES``), its layer kinds are kept,
each at least once; ``_OWN`` holds what some family needs beside that.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PretrainedConfig

VOCABULARY = 160
POSITIONS = 128
SOURCE = 12
_WIDTH, _HEADS, _LAYERS = 64, 4, 2
_HEAD = _WIDTH // _HEADS

# What a number is called, and how small it is made.
_SIZES: Mapping[str, int] = {
    **dict.fromkeys(("vocab_size", "decoder_vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "model_dim"), _WIDTH),
    **dict.fromkeys(("lru_width", "dim_model", "encoder_hidden_size"), _WIDTH),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_ff", "ffn_hidden_size"), 96),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "dim_ff", "dff"), 96),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("shared_intermediate_size", "intermediate_size_mlp", "expert_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers"), _LAYERS),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), _LAYERS),
    **dict.fromkeys(("num_encoder_layers", "num_blocks"), _LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "n_heads"), _HEADS),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), _HEADS),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), _HEADS),
    **dict.fromkeys(("head_dim", "d_kv", "kv_channels", "attention_head_dim", "dim_head"), _HEAD),
    **dict.fromkeys(("qk_nope_head_dim", "v_head_dim"), 16),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 32),
    "qk_rope_head_dim": 8,
    "rotary_dim": 8,
    "qk_head_dim": 24,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 8),
    "moe_num_experts": 8,
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "top_k_experts", "moe_top_k"), 2),
    **dict.fromkeys(("moe_topk", "num_experts_per_token"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts"), 1),
    **dict.fromkeys(("num_expert_group", "num_shared_experts"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), POSITIONS),
    **dict.fromkeys(("max_target_positions", "max_source_positions"), POSITIONS),
    **dict.fromkeys(("max_encoder_position_embeddings", "max_sequence_length"), POSITIONS),
    **dict.fromkeys(("max_decoder_position_embeddings", "block_size"), POSITIONS),
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "attention_window_size"), 16),
    "window_size": 16,
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    "mamba_n_groups": 1,
    "mamba_d_ssm": 128,
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 16),
    **dict.fromkeys(("time_step_rank", "mamba_dt_rank"), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 16),
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "hidden_size_per_layer_input": 16,
    "laurel_rank": 8,
    "attention_hidden_size": _WIDTH,
    # With few heads the scores of many tokens are all 0, and which of them are taken nobody says.
    "index_n_heads": 16,
    "index_head_dim": 16,
    "index_topk": 16,
    "max_window_layers": 1,
    "num_mel_bins": 16,
    "first_k_dense_replace": 1,
    "partial_rotary_dim": 8,
    **dict.fromkeys(("encoder_num_hidden_layers", "decoder_num_hidden_layers"), _LAYERS),
    **dict.fromkeys(("encoder_num_attention_heads", "decoder_num_attention_heads"), _HEADS),
    **dict.fromkeys(("encoder_num_key_value_heads", "decoder_num_key_value_heads"), _HEADS),
    **dict.fromkeys(("src_vocab_size", "tgt_vocab_size"), VOCABULARY),
    **dict.fromkeys(("embedding_dim", "adapter_hidden_size"), _WIDTH),
    **dict.fromkeys(("input_feat_per_channel", "conv_channels"), 16),
    **dict.fromkeys(("expert_ffn_hidden_size", "adapter_rank"), 32),
    "unpadded_vocab_size": VOCABULARY,
    "swa_num_attention_heads": _HEADS,
    "swa_num_key_value_heads": _HEADS // 2,
    "swa_head_dim": _HEAD,
    **dict.fromkeys(("sliding_window_size", "rel_extent"), 16),
    "n_layers_per_attn_res_block": 1,
    "hc_lowrank": 8,
    "emb_dim": _WIDTH,
    "mamba_headdim": 16,
    "attention_window": 16,
}
# Fewer heads of keys than of queries, where a family has that at all.
_FEWER = ("num_key_value_heads", "n_head_kv", "num_kv_heads")
_LAYER_KINDS = ("layer_types", "layers_block_type", "mlp_layer_types", "block_types")
_IDS: Mapping[str, int] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

# What a number is that a configuration leaves open, though its model needs one.
_OPEN: Mapping[str, int] = {
    "head_dim": _HEAD,
    "num_key_value_heads": _HEADS // 2,
    "num_experts_per_tok": 2,
    "n_routed_experts": 8,
    "n_group": 1,
    "topk_group": 1,
    "indexer_n_heads": 16,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
}
_ROTARY: Mapping[str, Any] = {"rope_theta": 10000.0, "rope_type": "default"}

# What some families need beside the sizes: mostly so that each kind of layer is there.
_OWN: Mapping[str, Mapping[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {"sliding_attention": _ROTARY, "full_attention": _ROTARY},
    },
    "dbrx": {
        "n_heads": _HEADS,
        "attn_config": {"kv_n_heads": _HEADS // 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
    },
    "dory": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "n_input_layers": 1,
        "n_recurrent_layers": 2,
        "n_output_layers": 1,
    },
    "dots1": {"n_shared_experts": 1},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "intermediate_size": [96] * 4,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1},
    "reformer": {"axial_pos_shape": [8, 16], "axial_pos_embds_dim": [16, 48]},
    "xlstm": {"num_blocks": 2},
    "switch_transformers": {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "num_hidden_layers": 4},
    "zaya": {"num_experts_per_tok": 1},
    "xmod": {"default_language": "en_XX"},
}


class NotBuilt(Exception):
    """A family of which no tiny model is made here, and why."""


@dataclass(frozen=True)
class Tiny:
    """A tiny model.

    Attributes:
        model: with random weights, in evaluation mode.
        source: what its encoder reads, as for ``export_decoder``; ``None`` without one.
        context: tokens that fit.
    """

    model: nn.Module
    source: int | torch.Tensor | None
    context: int

    def read(self, shorter: int = 0) -> torch.Tensor:
        """A source (1, ...): of text so many tokens less than fit, of sound another one."""
        assert self.source is not None
        if isinstance(self.source, int):
            return torch.tensor([sequence(9 + shorter, self.source - shorter)])
        draw = torch.Generator().manual_seed(9 + shorter)
        return torch.randn(self.source.shape, generator=draw)


def families() -> dict[str, str]:
    """Name to model class, as transformers' registry has them: causal, then encoder-decoder."""
    from transformers.models.auto import modeling_auto as auto

    found = dict(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    for mapping in (
        auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    ):
        for name, kind in mapping.items():
            if kind not in found.values():
                found[name if name not in found else f"{name}-seq2seq"] = kind
    return dict(sorted(found.items()))


def build(family: str) -> Tiny:
    """The tiny model of a family.

    Raises:
        NotBuilt: it needs more than small numbers.
    """
    import transformers

    cls = getattr(transformers, families()[family])
    try:
        torch.manual_seed(0)
        config = small(cls.config_class(), _OWN.get(family, {}))
        model: nn.Module = cls(config).eval()
    except Exception as error:  # whatever a family's own code raises is the answer
        raise NotBuilt(f"{type(error).__name__}: {error}") from error
    spread(model)
    source = None
    if "decoder_input_ids" in inspect.signature(model.forward).parameters:
        source = _source(model)
    return Tiny(model, source, POSITIONS)


def small(default: PretrainedConfig, own: Mapping[str, Any]) -> PretrainedConfig:
    """``default``, a configuration of a family, in small; ``own`` on top."""
    names = vars(default)
    given: dict[str, Any] = {}
    for name, value in names.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in _IDS:
            given[name] = _IDS[name]
        elif name.endswith("_token_id") and isinstance(value, int):
            given[name] = min(value, VOCABULARY - 1)
        elif name in _FEWER and is_number:
            given[name] = _fewer(default, value)
        elif name in _SIZES and is_number:
            given[name] = _SIZES[name] if value else value
        elif name in _OPEN and value is None:
            given[name] = _OPEN[name]
    if "qk_rope_head_dim" in names and "head_dim" in names:
        given["head_dim"] = _SIZES["qk_rope_head_dim"]
    given |= _layers(names)
    if "is_decoder" in names and not getattr(default, "is_encoder_decoder", False):
        given["is_decoder"] = True
    for name in getattr(type(default), "sub_configs", {}):
        if getattr(default, name, None) is not None:
            crosses = {"add_cross_attention": True} if name == "decoder" else {}
            given[name] = small(getattr(default, name), crosses).to_dict()
    return type(default)(**{**given, **own})


def _fewer(default: PretrainedConfig, value: int) -> int:
    heads = vars(default).get("num_attention_heads")
    return value if value == 1 else _HEADS if value == heads else _HEADS // 2


def _layers(names: Mapping[str, Any]) -> dict[str, Any]:
    """As many layers as there are kinds of them, each kind once."""
    kinds = {
        name: list(dict.fromkeys(value))
        for name in _LAYER_KINDS
        if isinstance(value := names.get(name), list | tuple)
    }
    count = max([_LAYERS, *map(len, kinds.values())])
    found: dict[str, Any] = {
        name: (of * count)[:count] if len(of) < count else of for name, of in kinds.items() if of
    }
    if found:
        found |= {n: count for n in ("num_hidden_layers", "n_layer", "num_layers") if n in names}
    return found


def spread(model: nn.Module) -> None:
    """Gives weights the size at which neither tokens nor layers drown: 1 / sqrt(inputs).

    Those that start from zero are drawn: experts would all be as good as one another.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2 or not parameter.is_floating_point() or "A_log" in name:
                continue
            if not parameter.any():
                parameter.normal_()
            deviation = float(parameter.std())
            if deviation > 0 and math.isfinite(deviation):
                inputs = parameter.shape[1:].numel() if parameter.dim() > 3 else parameter.shape[-1]
                parameter.mul_(1 / (deviation * math.sqrt(inputs)))


def main_input(model: nn.Module) -> str:
    """The parameter that the model, or its encoder, reads first."""
    return str(getattr(model, "main_input_name", "input_ids"))


def _source(model: nn.Module) -> int | torch.Tensor:
    name = main_input(model)
    config: Any = model.config
    draw = torch.Generator().manual_seed(0)
    if name == "input_ids":
        return SOURCE
    if name == "input_values":
        return torch.randn(1, 4000, generator=draw)
    bins = getattr(config, "num_mel_bins", 16)
    if getattr(config, "model_type", "") == "whisper":
        return torch.randn(1, bins, 2 * config.max_source_positions, generator=draw)
    return torch.randn(1, 40, bins, generator=draw)


def sequence(seed: int, count: int) -> list[int]:
    """Random token ids, none of them special."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY - 8, (count,), generator=draw).tolist()
