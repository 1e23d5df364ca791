"""Four small models in which faults are planted: as deep and varied as real ones, but narrow."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Built = tuple[nn.Module, tuple[Tensor, ...]]


class Residual(nn.Module):
    """Depthwise-separable convolutions with a gate for each channel, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)
        self.squeeze = nn.Linear(channels, channels // 2)
        self.excite = nn.Linear(channels // 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        y = self.pointwise(nn.functional.silu(self.norm(self.depthwise(x))))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3))))))
        return x + y * gate[:, :, None, None]


class Cnn(nn.Module):
    """Stem, two residual stages, pooling by maximum and by mean, a classifier."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.first, self.second = Residual(width), Residual(width)
        self.down = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) to log-probabilities (N, 10)."""
        x = torch.relu(self.norm(self.stem(x * 2.0 - 1.0)))
        x = nn.functional.max_pool2d(self.first(x), 2)
        x = self.second(nn.functional.leaky_relu(self.down(x), 0.1))
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)
        return torch.log_softmax(self.head(pooled), dim=-1)


def cnn() -> Built:
    """A convolutional classifier on images of 24 x 24 pixels."""
    return _weighted(Cnn()), (torch.rand(1, 3, 24, 24),)


def bert() -> Built:
    """A BERT encoder: 2 layers, 4 heads, 16 tokens of which 4 are padding."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=100,
        max_position_embeddings=32,
    )
    model = _weighted(BertModel(config, add_pooling_layer=False))
    mask = torch.ones(1, 16, dtype=torch.long)
    mask[0, 12:] = 0
    return model, (torch.randint(0, 100, (1, 16)), mask)


def llama() -> Built:
    """A Llama decoder: 2 layers, rotary positions, grouped queries, RMS norms, gated layers."""
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=100,
        max_position_embeddings=64,
        use_cache=False,
    )
    return _weighted(LlamaModel(config)), (torch.randint(0, 100, (1, 16)),)


def whisper() -> Built:
    """A Whisper encoder: two 1-D convolutions, 2 layers, 20 frames."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=64,
        num_mel_bins=8,
        max_source_positions=20,
    )
    return _weighted(WhisperEncoder(config)), (torch.randn(1, 8, 40),)


MODELS: dict[str, Callable[[], Built]] = {
    "bert": bert,
    "cnn": cnn,
    "llama": llama,
    "whisper": whisper,
}


def _weighted(model: nn.Module) -> nn.Module:
    """Weights as large as trained ones: fresh ones are so small that layers add next to nothing."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point() or "inv_freq" in name:
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim > 1:
                tensor.copy_(noise * max(tensor[0].numel(), 1) ** -0.5)
            elif "var" in name or "weight" in name:
                tensor.copy_(1 + 0.2 * noise.clamp(-3, 3))
            else:
                tensor.copy_(0.2 * noise)
    return model.eval()
