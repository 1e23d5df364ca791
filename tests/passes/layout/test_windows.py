"""Windows of an image, as Swin, SAM and their kind attend in them: moves and reshapes that stay."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from passes import default_pipeline
from tests.passes.util import (
    assert_differs_when_perturbed,
    assert_same,
    count,
    run_pass,
    seeded,
)

aten = torch.ops.aten
PERMUTE, RESHAPE = aten.permute.default, aten.reshape.default
C = 16


def windows(x, size):
    """(B, H, W, C) to (windows, size * size, C), as Swin and SAM do."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // size, size, width // size, size, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, channels)


def image_of(x, size, height, width):
    x = x.view(-1, height // size, width // size, size, size, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, x.shape[-1])


class Windows(nn.Module):
    """Blocks on windows of 3 x 3 pixels of an image: shifted, or padded to whole windows."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.inside, self.up, self.down = nn.Linear(C, C), nn.Linear(C, 2 * C), nn.Linear(2 * C, C)
        self.stem, self.norm, self.kind = nn.Conv2d(C, C, 1), nn.LayerNorm(C), kind

    def block(self, x):
        height, width = x.shape[1:3]
        y = self.norm(x)
        if self.kind == "shifted":
            y = torch.roll(y, (-1, -1), (1, 2))
        right, below = -width % 3, -height % 3
        y = F.pad(y, (0, 0, 0, right, 0, below))
        y = image_of(self.inside(windows(y, 3)).tanh(), 3, height + below, width + right)
        y = y[:, :height, :width]
        if self.kind == "shifted":
            y = torch.roll(y, (1, 1), (1, 2))
        x = x + y
        return x + self.down(F.gelu(self.up(self.norm(x))))

    def forward(self, image):
        x = self.stem(image).permute(0, 2, 3, 1)
        return self.block(self.block(x)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("kind", ["plain", "shifted", "padded"])
@pytest.mark.parametrize("batch", [1, 2])
def test_windows_are_one_move_there_and_one_back(kind, batch):
    model = Windows(kind)
    x = seeded(batch, C, *((7, 8) if kind == "padded" else (6, 9)))
    _, after, _ = run_pass(model, x, *default_pipeline())
    moves = 4 if batch == 1 else 10  # six axes are moved in steps
    assert count(after, PERMUTE) <= moves, after.graph
    assert_same(model, after, x)
    assert_differs_when_perturbed(after, model, x)


class Rolled(nn.Module):
    """Tokens (B, S, C) that are an image while they are rolled, as in a block of Swin."""

    def __init__(self, axes):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down, self.norm = nn.Linear(C, 2 * C), nn.Linear(2 * C, C), nn.LayerNorm(C)
        self.axes = axes

    def forward(self, tokens):
        image = self.norm(tokens).unflatten(1, (4, 6))
        image = torch.roll(image, [-1] * len(self.axes), self.axes)
        tokens = tokens + self.up(image.flatten(1, 2)).tanh()[..., :C]
        image = torch.roll(tokens.unflatten(1, (4, 6)), [2] * len(self.axes), self.axes)
        return self.down(F.gelu(self.up(self.norm(image.flatten(1, 2)))))


@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2)])
@pytest.mark.parametrize("batch", [1, 2])
def test_tokens_are_taken_apart_once_for_a_roll(axes, batch):
    model, x = Rolled(axes), seeded(batch, 24, C)
    _, after, _ = run_pass(model, x, *default_pipeline())
    # To an image and back, for each of the two rolls.
    assert count(after, RESHAPE) <= 4, after.graph
    assert count(after, PERMUTE) == 2, after.graph
    assert_same(model, after, x)
    assert_differs_when_perturbed(after, model, x)
