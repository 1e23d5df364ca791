"""Decoder language models: rotary, ALiBi and learned positions, shared keys, windows, experts."""

from __future__ import annotations

from typing import Any

from benchmarks.zoo.entry import VOCABULARY, Draw, Entry, hf, ids, masked_ids

_LAYERS = 2


def _decoder(name: str, model: str, draw: Draw | None = None, **options: object) -> Entry:
    """A decoder in the widths of a 0.5B model: 16 heads, 8 of keys, 1024 wide."""
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "use_cache": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return hf(name, model, draw or ids(), **{**sizes, **options})


_GPT: dict[str, Any] = {"vocab_size": VOCABULARY, "n_layer": _LAYERS, "use_cache": False}
# Experts half as wide as a dense layer; two of eight are used for a token.
_EXPERTS: dict[str, Any] = {
    "moe_intermediate_size": 512,
    "num_experts": 8,
    "num_experts_per_tok": 2,
}

LLM: tuple[Entry, ...] = (
    hf("gpt2", "GPT2LMHeadModel", ids(), **_GPT),
    hf(
        "gpt-neox",
        "GPTNeoXForCausalLM",
        ids(),
        vocab_size=VOCABULARY,
        num_hidden_layers=2,
        hidden_size=768,
        num_attention_heads=12,
        intermediate_size=3072,
        use_cache=False,
    ),
    hf(
        "mpt",
        "MptForCausalLM",
        ids(),
        vocab_size=VOCABULARY,
        n_layers=2,
        d_model=768,
        n_heads=12,
        use_cache=False,
    ),
    hf(
        "falcon",
        "FalconForCausalLM",
        ids(),
        vocab_size=VOCABULARY,
        num_hidden_layers=2,
        hidden_size=1024,
        num_attention_heads=16,
        use_cache=False,
    ),
    _decoder("llama", "LlamaForCausalLM"),
    _decoder("llama-mask", "LlamaForCausalLM", masked_ids()),
    _decoder("mistral-window", "MistralForCausalLM", sliding_window=64),
    _decoder("qwen2", "Qwen2ForCausalLM"),
    _decoder("qwen3", "Qwen3ForCausalLM"),
    _decoder("qwen3-mask", "Qwen3Model", masked_ids()),
    _decoder("gemma2-softcap", "Gemma2ForCausalLM", head_dim=64, sliding_window=64),
    _decoder("gemma3", "Gemma3ForCausalLM", head_dim=64, sliding_window=64),
    _decoder("phi3", "Phi3ForCausalLM"),
    _decoder("olmo2", "Olmo2ForCausalLM"),
    _decoder("mixtral-moe", "MixtralForCausalLM", intermediate_size=512, num_local_experts=8),
    _decoder("qwen3-moe", "Qwen3MoeForCausalLM", **_EXPERTS, head_dim=64),
    _decoder(
        "gpt-oss-moe",
        "GptOssForCausalLM",
        intermediate_size=512,
        num_local_experts=8,
        num_experts_per_tok=2,
        head_dim=64,
        sliding_window=64,
    ),
    hf(
        "mamba",
        "MambaForCausalLM",
        ids(64),
        vocab_size=VOCABULARY,
        num_hidden_layers=1,
        hidden_size=768,
        use_cache=False,
    ),
    hf(
        "mamba2",
        "Mamba2ForCausalLM",
        ids(64),
        vocab_size=VOCABULARY,
        num_hidden_layers=1,
        hidden_size=768,
        num_heads=24,
        head_dim=64,
        n_groups=1,
        chunk_size=32,
        use_cache=False,
    ),
)
