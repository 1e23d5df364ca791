"""Models that people ported to the ANE by hand, and what a conversion of ours must come to.

Weights are random, in the architecture that the port is for. A limit is the port's own count, or
better where Apple's port is known to waste ops; every port was converted with coremltools 9.0 at
fp16 and its operators counted as ``mil_stats`` counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn

import passes
from benchmarks import hand_port
from passes.base import Pass
from passes.split_attention import SplitAttention

Inputs = dict[str, torch.Tensor]
Built = tuple[nn.Module, Callable[[], Inputs]]


@dataclass(frozen=True)
class Port:
    """A model, how it is optimised, and the counts to come to.

    Attributes:
        port: whose port sets the limits.
        build: gives the module in evaluation mode, and a function for fresh random inputs.
        pipeline: the passes to run.
        at_most: metric to its largest allowed value; see ``acceptance.counts``.
        exactly: metric to the value that it must have.
        block: start of the module paths of the encoder blocks.
        banned: MIL operators that must not stand between the blocks' first and last operator.
        by_hand: makes the port from the model, where it is written here: its price is a limit.
    """

    port: str
    build: Callable[[], Built]
    pipeline: tuple[Pass, ...] = passes.DEFAULT_PIPELINE
    at_most: Mapping[str, int] = field(default_factory=dict)
    exactly: Mapping[str, int] = field(default_factory=dict)
    block: str = ""
    banned: tuple[str, ...] = ()
    by_hand: Callable[[nn.Module], nn.Module] | None = None


def distilbert(layers: int = 6, *, width: int = 768, heads: int = 12) -> Built:
    """DistilBERT for sequence classification; 128 tokens, of which a random part is padding."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    config = DistilBertConfig(n_layers=layers, dim=width, n_heads=heads, hidden_dim=4 * width)
    model = DistilBertForSequenceClassification(config).eval()

    def inputs() -> Inputs:
        used = int(torch.randint(16, 129, ()))
        mask = (torch.arange(128) < used).long()[None]
        return {"input_ids": torch.randint(config.vocab_size, (1, 128)), "attention_mask": mask}

    return model, inputs


def whisper_tiny_encoder() -> Built:
    """The encoder of Whisper tiny: 30 s of audio, 80 mel bands, 1,500 positions."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536
    )
    return WhisperEncoder(config).eval(), lambda: {"input_features": torch.randn(1, 80, 3000)}


def gpt2() -> Built:
    """GPT-2 with 4 layers and its language-model head, 128 tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=4, use_cache=False)
    return GPT2LMHeadModel(config).eval(), _ids(config.vocab_size, 128)


def qwen3() -> Built:
    """Qwen3 of the 0.6B model's width with 2 layers, 64 tokens; like the port without a head."""
    from transformers import Qwen3Config, Qwen3Model

    config = Qwen3Config(
        vocab_size=4096,  # rows of one gather: their number changes no operator
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=2,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        use_cache=False,
    )
    return Qwen3Model(config).eval(), _ids(config.vocab_size, 64)


class _Encoder(nn.Module):
    """``nn.TransformerEncoder`` on an image (1, C, 1, S), which Apple's reference takes."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor]:
        """Tokens (1, S, C), alone in a tuple."""
        return (self.encoder(image.squeeze(2).transpose(1, 2)),)


def _apples_encoder(model: nn.Module) -> nn.Module:
    """Apple's published form of ``torch_encoder``'s layers, with their weights."""
    assert isinstance(model, _Encoder)
    return hand_port.Encoder(model.encoder).eval()


def torch_encoder() -> Built:
    """PyTorch's own encoder with 4 layers, 128 tokens: queries, keys and values are packed."""
    return _Encoder().eval(), lambda: {"image": torch.randn(1, 512, 1, 128)}


def _ids(vocabulary: int, tokens: int) -> Callable[[], Inputs]:
    return lambda: {"input_ids": torch.randint(vocabulary, (1, tokens))}


def _chunked(pipeline: tuple[Pass, ...], queries: int) -> tuple[Pass, ...]:
    """The passes, with attention split into chunks of ``queries`` wherever it is longer."""
    return tuple(
        replace(step, query_chunk=queries, chunk_above=0)
        if isinstance(step, SplitAttention)
        else step
        for step in pipeline
    )


BATCHED = passes.default_pipeline(attention="batched")
# argmax's encoder returns (B, C, 1, S), which its decoder takes.
IMAGE = passes.default_pipeline(image_outputs=True)
IMAGE_BATCHED = passes.default_pipeline(attention="batched", image_outputs=True)
_DISTILBERT_BLOCKS = "distilbert.transformer.layer."

PORTS: dict[str, Port] = {
    "distilbert-split": Port(
        "Apple: 478 ops, 7 transposes, 15 of rank ≠ 4",
        distilbert,
        at_most={"ops": 420, "transpose": 7, "rank≠4": 15},
        exactly={"layer_norm": 13},
        block=_DISTILBERT_BLOCKS,
        banned=("linear", "matmul", "reshape"),
    ),
    "distilbert-batched": Port(
        "Apple: 478 ops, 7 transposes, 15 of rank ≠ 4",
        distilbert,
        BATCHED,
        at_most={"ops": 145},
        block=_DISTILBERT_BLOCKS,
        banned=("transpose",),
    ),
    "whisper-batched": Port(
        "argmax: 83 ops, no transpose, none of rank ≠ 4",
        whisper_tiny_encoder,
        IMAGE_BATCHED,
        at_most={"ops": 83},
        exactly={"transpose": 0, "rank≠4": 0},
    ),
    "whisper-split": Port(
        "argmax, split: 875 ops, 4 transposes",
        whisper_tiny_encoder,
        IMAGE,
        at_most={"ops": 200, "transpose": 4},
    ),
    "whisper-split-256": Port(
        "argmax, split: 875 ops, 4 transposes",
        whisper_tiny_encoder,
        _chunked(IMAGE, 256),
        at_most={"ops": 700},
    ),
    "torch-encoder": Port(
        "Apple: a transpose of the keys in each layer, no reshape, none of rank ≠ 4",
        torch_encoder,
        IMAGE,
        at_most={"transpose": 4},
        exactly={"reshape": 0, "rank≠4": 0},
        by_hand=_apples_encoder,
    ),
    "gpt2": Port(
        "smpanaro: 6 transposes, 30 reshapes", gpt2, at_most={"transpose": 6, "reshape": 30}
    ),
    "qwen3": Port("0seba: 9 transposes, 8 reshapes", qwen3, at_most={"transpose": 9, "reshape": 8}),
}
