"""A small classifier of pictures: a convolution, an attention block and a head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIZE = (32, 32)
LABELS = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen")
_WIDTH = 32
_PATCH = 8


class Toy(nn.Module):
    """Patches, two encoder layers, the mean of the tokens, scores."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, _WIDTH, _PATCH, stride=_PATCH)
        layer = nn.TransformerEncoderLayer(_WIDTH, 4, 2 * _WIDTH, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(_WIDTH, len(LABELS))

    def forward(self, image: Tensor) -> Tensor:
        """Scores (1, classes) of a picture (1, 3, height, width)."""
        tokens = self.patches(image).flatten(2).transpose(1, 2)
        scores: Tensor = self.head(self.encoder(tokens).mean(1))
        return scores


def toy() -> tuple[nn.Module, tuple[Tensor]]:
    """The model with fixed weights, and what to call it with."""
    torch.manual_seed(0)
    return Toy().eval(), (torch.randn(1, 3, *SIZE),)
