"""Tokens that are an image before and after stay one: reshapes counted, numbers compared."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from passes import FuseRmsNorm, KeepImages, SimplifyViews, default_pipeline
from tests.passes.util import (
    assert_differs_when_perturbed,
    assert_same,
    count,
    run_pass,
    seeded,
)

aten = torch.ops.aten
RESHAPE, LINEAR = aten.reshape.default, aten.linear.default
C, H, W = 8, 4, 6
S = H * W


class Net(nn.Module):
    """What is done to an image (B, H, W, C) by ``spelled``."""

    def __init__(self, spelled):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(C, 2 * C), nn.Linear(2 * C, C)
        self.norm, self.rms = nn.LayerNorm(C), nn.RMSNorm(C)
        self.depthwise = nn.Conv2d(2 * C, 2 * C, 3, padding=1, groups=2 * C)
        self.position = nn.Parameter(torch.randn(S, C))
        self.row = nn.Parameter(torch.randn(1, 1, C))
        self.token = nn.Parameter(torch.randn(1, 1, C))
        self.spelled = spelled

    def forward(self, x):
        return self.spelled(self, x)


def rows(x):
    return x.flatten(1, 2)


def image(x):
    return x.unflatten(1, (H, W))


def mlp(m, x):
    return x + m.down(F.gelu(m.up(m.norm(x))))


def rolled(m, x):
    """As Swin: rolled as an image, everything else in a row."""
    x = mlp(m, rows(x) + m.position)
    return mlp(m, rows(torch.roll(image(m.norm(x)), 1, 1)) * m.row + x)


def convolved(m, x):
    """As SegFormer: a convolution of the image inside of the block."""
    y = m.up(rows(m.rms(x))).transpose(1, 2)
    y = m.depthwise(y.view(-1, 2 * C, H, W)).flatten(2).transpose(1, 2)
    return image(rows(x) + m.down(F.gelu(y)))


def scaled_by_entry(m, x):
    """Weights of each entry of the batch, and of each channel in front of the tokens."""
    y = rows(m.norm(x)) * x.mean((1, 2)).unsqueeze(1)
    y = y.transpose(1, 2) + x.amax((1, 2)).unsqueeze(-1)
    return y.sigmoid().view(-1, C, H, W)


def pooled(m, x):
    """Keys from a smaller image, as in PVT."""
    x = rows(x)
    few = F.avg_pool2d(image(m.norm(x)).permute(0, 3, 1, 2), 2).flatten(2).transpose(1, 2)
    return image(mlp(m, x + F.scaled_dot_product_attention(m.norm(x), few, few)))


# Reshapes as they are left, with the ends of the model itself.
KINDS = {
    # Windows would read the image, the program's result is one row.
    rolled: 1,
    convolved: 0,
    scaled_by_entry: 0,
    # Queries to a row, and what they found back.
    pooled: 2,
}


@pytest.mark.parametrize("spelled", KINDS)
@pytest.mark.parametrize("batch", [1, 2])
def test_what_stays_an_image(spelled, batch):
    model, x = Net(spelled), seeded(batch, H, W, C)
    before, after, _ = run_pass(model, x, FuseRmsNorm(), KeepImages(), SimplifyViews())
    assert of_images(after) == KINDS[spelled] < of_images(before), after.graph
    assert_same(model, after, x)
    assert_differs_when_perturbed(after, model, x)


def of_images(program):
    """Reshapes of images, without those of weights, which are folded later."""
    calls = [n for n in program.graph.nodes if n.target is RESHAPE]
    return sum(
        n.meta["val"].numel() >= S * C and not n.args[0].name.startswith("p_") for n in calls
    )


def only_in_front(m, x):
    """As a vision transformer: an image once, and then a row for good."""
    return mlp(m, rows(x) + m.position)


def with_a_token(m, x):
    """One token more than pixels."""
    x = torch.cat([m.token.expand(len(x), -1, -1), rows(x)], 1)
    return image(mlp(m, x)[:, 1:])


def of_all_pixels(m, x):
    """A softmax over all pixels belongs to no pixel."""
    return rows(x).softmax(1) + rows(x).cumsum(1)


def with_tokens_in_front(m, x):
    """A linear of (tokens, batch, channels) would convolve over the batch."""
    return m.up(rows(x).transpose(0, 1)).unflatten(0, (H, W))


@pytest.mark.parametrize(
    "spelled", [only_in_front, with_a_token, of_all_pixels, with_tokens_in_front]
)
def test_what_saves_no_reshape_stays_as_it_is(spelled):
    model, x = Net(spelled), seeded(2, H, W, C)
    before, after, (report,) = run_pass(model, x, KeepImages())
    assert report.rewrites == 0
    assert str(after.graph) == str(before.graph)
    assert_same(model, after, x)


def test_open_sizes_are_left_alone():
    model, x = Net(rolled), seeded(2, H, W, C)
    batch = torch.export.Dim("batch", min=2, max=8)
    _, after, (report,) = run_pass(model, x, KeepImages(), dynamic_shapes=({0: batch},))
    assert report.rewrites == 0
    assert_same(model, after, seeded(3, H, W, C))


@pytest.mark.parametrize("size", [(4, 6), (6, 4), (3, 8)])
def test_each_image_keeps_its_own_height_and_width(size):
    """Several images of as many pixels: the form that most reshapes name is kept."""

    def spelled(m, x):
        x = mlp(m, rows(x))
        other = torch.roll(x.unflatten(1, size), 1, 2)
        return image(mlp(m, rows(other) + rows(torch.roll(image(x), 1, 1))))

    model, x = Net(spelled), seeded(2, H, W, C)
    _, after, _ = run_pass(model, x, *default_pipeline())
    assert_same(model, after, x)
    assert count(after, RESHAPE) <= (1 if size == (H, W) else 4), after.graph
    assert_differs_when_perturbed(after, model, x)


@pytest.mark.parametrize("spelled", [convolved, pooled, rolled])
def test_the_layout_keeps_what_was_kept(spelled):
    """Through convolutions and attention, too: values between images are not merged again."""
    model, x = Net(lambda m, x: spelled(m, spelled(m, x))), seeded(1, H, W, C)
    if spelled is rolled:
        model = Net(lambda m, x: image(rolled(m, image(rolled(m, x)))))
    _, after, _ = run_pass(model, x, *default_pipeline())
    # Each attention over all pixels takes queries as a row, gives one back, and has a row of keys.
    assert count(after, RESHAPE) <= (6 if spelled is pooled else 0), after.graph
    assert_same(model, after, x, atol=5e-6)
    assert_differs_when_perturbed(after, model, x)
