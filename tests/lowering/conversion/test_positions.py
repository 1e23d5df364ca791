"""Angles, positions and coordinates in float16 packages, at the ends of their range."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowering import convert, predict
from passes import optimize_for_ane
from tests.passes.util import seeded

FREQUENCIES = 1.0 / 10000 ** (torch.arange(8).float() / 8)
FLOAT16, FLOAT32 = 65552, 65568  # of a package's description


class Rotary(nn.Module):
    """Queries turned by their positions, times keys: angles, then activations."""

    def __init__(self, product):
        super().__init__()
        self.turn, self.product = nn.Linear(16, 16), product

    def forward(self, x, position):
        angle = self.product(position, FREQUENCIES)
        q = self.turn(x)
        return q[..., :8] * angle.cos() - q[..., 8:] * angle.sin()


class Timestep(nn.Module):
    def __init__(self, factor=1.0):
        super().__init__()
        self.factor, self.embed = factor, nn.Linear(16, 4)

    def forward(self, t):
        angle = (t * self.factor)[:, None].float() * FREQUENCIES
        return self.embed(torch.cat([angle.cos(), angle.sin()], -1))


class Warp(nn.Module):
    def __init__(self, width):
        super().__init__()
        columns, rows = torch.meshgrid(torch.arange(width), torch.arange(8), indexing="xy")
        self.register_buffer("grid", torch.stack([columns, rows], -1)[None].float())
        self.register_buffer("size", torch.tensor([width - 1.0, 7.0]))
        self.flow = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, image):
        place = self.grid + self.flow(image).permute(0, 2, 3, 1)
        return F.grid_sample(image, place / self.size * 2 - 1, align_corners=True)


class Turned(nn.Module):
    def __init__(self):
        super().__init__()
        self.pose = nn.Linear(4, 6)

    def forward(self, x, image):
        grid = F.affine_grid(self.pose(x).view(1, 2, 3), (1, 3, 8, 700), align_corners=False)
        return F.grid_sample(image, grid, align_corners=False)


def outer(position, frequencies):
    return position[..., None].float() * frequencies


def einsum(position, frequencies):
    return torch.einsum("bs,d->bsd", position.to(torch.float32), frequencies)


def matmul(position, frequencies):
    rows = frequencies[None, :, None].expand(position.shape[0], -1, 1)
    return (rows @ position[:, None, :].float()).transpose(1, 2)


def tokens(start):
    return torch.arange(start, start + 4)[None]


def package_of(model, args):
    optimized = optimize_for_ane(model.eval(), args)
    return convert(optimized, skip_model_load=True)


def assert_right(package, model, args, error=2e-3):
    names = [given.name for given in package.get_spec().description.input]
    given = {
        name: x.numpy() if x.is_floating_point() else x.numpy().astype(np.int32)
        for name, x in zip(names, args, strict=True)
    }
    (found,) = predict(package, given).values()
    with torch.no_grad():
        want = model(*args)
    found = torch.from_numpy(np.asarray(found, np.float32)).reshape(want.shape)
    assert float((found - want).norm() / want.norm()) < error


def operators(package, *kinds):
    operations = package._mil_program.functions["main"].operations
    return [op for op in operations if op.op_type in kinds]


def is_float16(op):
    return op.outputs[0].is_tensor_or_scalar_of(dtype="fp16")


def is_integer(op):
    return op.outputs[0].is_tensor_or_scalar_of(dtype="int32")


@pytest.mark.parametrize("product", [outer, einsum, matmul])
def test_rotary_positions(product):
    torch.manual_seed(0)
    x, model = seeded(1, 4, 16), Rotary(product)
    package = package_of(model, (x, tokens(0)))
    for start in (0, 3001, 100_001, 2_000_000):
        assert_right(package, model, (x, tokens(start)))
    # Angles alone are float32: heavy operators and what meets activations are not.
    assert not any(is_float16(op) for op in operators(package, "sin", "cos"))
    heavy = [op for op in operators(package, "linear", "conv", "sub") if op.x.shape[1] != 1]
    assert len(heavy) == 3 and all(map(is_float16, heavy))


@pytest.mark.parametrize(
    ("example", "far", "factor"),
    [
        (torch.tensor([3]), torch.tensor([999]), 1.0),
        (torch.tensor([3.0]), torch.tensor([999.0]), 1.0),
        (torch.tensor([0.3]), torch.tensor([0.9991]), 1000.0),
    ],
    ids=["integer", "float", "fraction"],
)
def test_timesteps(example, far, factor):
    torch.manual_seed(0)
    model = Timestep(factor)
    package = package_of(model, (example,))
    for t in (example, far):
        assert_right(package, model, (t,))
    (given,) = package.get_spec().description.input
    is_float = example.is_floating_point()
    assert given.type.multiArrayType.dataType == (FLOAT32 if is_float else 131104)


def test_positions_that_are_counted():
    """As in models whose padding stands in front: positions are a running sum of the mask."""

    class Counted(nn.Module):
        def forward(self, mask):
            return ((mask.cumsum(-1) - 1)[..., None] * FREQUENCIES).cos()

    mask = torch.ones(1, 3000).long()
    assert_right(package_of(Counted(), (mask,)), Counted(), (mask,))


@pytest.mark.parametrize(
    "function",
    [
        lambda p: p.float() / 77,
        lambda p: torch.frac(p / 77),
        lambda p: (p.float() + 1).log(),
        lambda p: (p % 7).float() * 0.3 + (p // 7).float() / 1000,
    ],
)
def test_arithmetic_of_integers(function):
    class Computes(nn.Module):
        def forward(self, p):
            return function(p)

    package = package_of(Computes(), (tokens(0),))
    for start in (0, 3001, 100_001):
        assert_right(package, Computes(), (tokens(start),))


@pytest.mark.parametrize("width", [64, 900])
def test_coordinates_of_a_flow(width):
    torch.manual_seed(0)
    image = torch.rand(1, 3, 8, width, generator=torch.Generator().manual_seed(0))
    model = Warp(width)
    package = package_of(model, (image,))
    assert_right(package, model, (image,))
    (sampling,) = operators(package, "resample")
    assert is_float16(sampling)
    assert sampling.coordinates.is_tensor_or_scalar_of(dtype="fp32")
    assert all(map(is_float16, operators(package, "conv")))


def test_coordinates_of_a_pose():
    torch.manual_seed(0)
    small = torch.rand(1, 3, 8, 70, generator=torch.Generator().manual_seed(0))
    model, args = (
        Turned(),
        (seeded(1, 4).half().float(), F.interpolate(small, (8, 700), mode="bilinear")),
    )
    package = package_of(model, args)
    assert_right(package, model, args)
    (sampling,) = operators(package, "resample")
    assert sampling.coordinates.is_tensor_or_scalar_of(dtype="fp32")


def test_a_grid_that_is_given_is_float32():
    class Samples(nn.Module):
        def forward(self, image, grid):
            return F.grid_sample(image * 2, grid, align_corners=False)

    image = torch.rand(1, 3, 8, 700, generator=torch.Generator().manual_seed(0))
    args = (image, torch.rand(1, 6, 5, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1)
    package = package_of(Samples(), args)
    kinds = [given.type.multiArrayType.dataType for given in package.get_spec().description.input]
    assert kinds == [FLOAT16, FLOAT32]
    assert_right(package, Samples(), args)


class Sirens(nn.Module):
    """Sines of activations: what they need digits for is not known, and it is all of the model."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 8), nn.Linear(8, 8)])

    def forward(self, x):
        for layer in self.layers:
            x = torch.sin(3 * layer(x))
        return x


class Masked(nn.Module):
    """A mask of integers, a one-hot code of them, and their embedding."""

    def __init__(self):
        super().__init__()
        self.embed, self.project = nn.Embedding(9, 8), nn.Linear(8, 8)

    def forward(self, ids, mask):
        x = self.embed(ids) + self.project(F.one_hot(ids % 8, 8).float())
        scores = x @ x.mT + (1.0 - mask[:, None, :].float()) * -1e4
        return scores.softmax(-1) @ x


class Picture(nn.Module):
    """Pixels fit, whatever is computed from them."""

    def forward(self, picture):
        return (picture.float() / 255 - 0.45) / 0.22


@pytest.mark.parametrize(
    ("model", "args"),
    [
        (Sirens(), (seeded(1, 2),)),
        (Masked(), (tokens(0), torch.ones(1, 4).long())),
        (Picture(), (torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8),)),
    ],
    ids=["sirens", "masked", "picture"],
)
def test_what_stays_float16(model, args):
    package = package_of(model, args)
    # The mask's own arithmetic is float32, up to where it meets the scores.
    kinds = ["linear", "conv", "matmul", "softmax", "gather", "add", "sin"]
    kinds += [] if isinstance(model, Masked) else ["mul", "sub", "real_div"]
    found = [op for op in operators(package, *kinds) if not is_integer(op)]
    assert len(found) >= 2 and all(map(is_float16, found))
    assert_right(package, model, args, 3e-3)
