"""PyTorch's own encoder, written by hand in the form of Apple's reference for the ANE.

Apple, "Deploying Transformers on the Apple Neural Engine", 2022: tokens lie as (B, C, 1, S),
projections are 1x1 convolutions, each head is two einsums and a softmax over the keys on axis 1,
keys are transposed once for all heads, and norms run over axis 1. Converted by stock coremltools
without passes, it says what such a port costs.
"""

from __future__ import annotations

import torch
from torch import nn


class _Norm(nn.Module):
    """A layer norm over the channels of (B, C, 1, S)."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight = nn.Parameter(norm.weight.detach().reshape(1, -1, 1, 1).clone())
        self.bias = nn.Parameter(norm.bias.detach().reshape(1, -1, 1, 1).clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(1, keepdim=True)
        variance = (centred * centred).mean(1, keepdim=True)
        return centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias


def _conv(weight: torch.Tensor, bias: torch.Tensor) -> nn.Conv2d:
    """A linear's weight (out, in) and bias as a 1x1 convolution."""
    outputs, inputs = weight.shape
    conv = nn.Conv2d(inputs, outputs, 1)
    conv.weight = nn.Parameter(weight.detach()[..., None, None].clone())
    conv.bias = nn.Parameter(bias.detach().clone())
    return conv


class _Layer(nn.Module):
    """``nn.TransformerEncoderLayer`` with its norms behind, in evaluation mode."""

    def __init__(self, layer: nn.TransformerEncoderLayer) -> None:
        super().__init__()
        attention = layer.self_attn
        self.heads, self.width = attention.num_heads, attention.head_dim
        packed = zip(
            attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True
        )
        self.query, self.key, self.value = (_conv(*part) for part in packed)
        self.out = _conv(attention.out_proj.weight, attention.out_proj.bias)
        self.wide = _conv(layer.linear1.weight, layer.linear1.bias)
        self.narrow = _conv(layer.linear2.weight, layer.linear2.bias)
        self.first, self.second = _Norm(layer.norm1), _Norm(layer.norm2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        queries = self.query(x).split(self.width, 1)
        keys = self.key(x).transpose(1, 3).split(self.width, 3)
        values = self.value(x).split(self.width, 1)
        heads = []
        for query, key, value in zip(queries, keys, values, strict=True):
            scores = torch.einsum("bchq,bkhc->bkhq", query, key) * self.width**-0.5
            heads.append(torch.einsum("bkhq,bchk->bchq", scores.softmax(1), value))
        x = self.first(x + self.out(torch.cat(heads, 1)))
        return self.second(x + self.narrow(self.wide(x).relu()))


class Encoder(nn.Module):
    """The layers of ``encoder`` on an image (B, C, 1, S), float32; another image comes out."""

    def __init__(self, encoder: nn.TransformerEncoder) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(_Layer(layer) for layer in encoder.layers))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The encoded image."""
        found: torch.Tensor = self.layers(image)
        return found
