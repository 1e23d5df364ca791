"""One layout for whole networks: what is left of the conversions, and that the numbers stay."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from passes import default_pipeline
from passes.layout.assign_layout import AssignLayout
from passes.linear_to_conv1x1 import LinearToConv1x1
from tests.passes.util import (
    Function,
    assert_differs_when_perturbed,
    assert_same,
    count,
    outputs,
    reasons,
    run_pass,
    seeded,
)

aten = torch.ops.aten
PERMUTE, CONV = aten.permute.default, aten.convolution.default
RESHAPES = (aten.reshape.default, aten.expand.default)
C, S = 16, 6
X = seeded(2, S, C)


class Net(nn.Module):
    """Linears and norms for ``spelled`` to put together."""

    def __init__(self, spelled):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (nn.Linear(C, C) for _ in range(3))
        self.up, self.down, self.qkv = nn.Linear(C, 2 * C), nn.Linear(2 * C, C), nn.Linear(C, 3 * C)
        self.norm, self.rms = nn.LayerNorm(C), nn.RMSNorm(C)
        self.token = nn.Parameter(torch.randn(1, 1, C))
        self.position = nn.Parameter(torch.randn(1, S + 1, C))
        self.gamma = nn.Parameter(torch.randn(C))
        self.spelled = spelled

    def forward(self, x):
        return self.spelled(self, x)


def rope(x):
    """Rotates halves of (B, H, S, D), as Llama does."""
    angles = torch.arange(x.shape[2])[:, None] / 10 ** torch.arange(x.shape[3] // 2)
    angles = torch.cat([angles, angles], -1)
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * angles.cos() + turned * angles.sin()


def heads(x):
    return x.unflatten(-1, (2, -1)).transpose(1, 2)


def merged(x):
    return x.transpose(1, 2).flatten(2)


# Each between two linears: tokens in, tokens out.
CARRIED = {
    "nothing": lambda m, x: x,
    "activation": lambda m, x: F.gelu(x),
    "residual": lambda m, x: x + m.b(F.relu(x)),
    "two_residuals": lambda m, x: (lambda h: h + m.c(h.relu()))(x + m.b(x.tanh())),
    "layer_norm": lambda m, x: m.norm(x),
    "rms_norm": lambda m, x: m.rms(x),
    "manual_norm": lambda m, x: (
        (x - x.mean(-1, True)) * torch.rsqrt(x.var(-1, keepdim=True) + 1e-5)
    ),
    "softmax_over_channels": lambda m, x: x.softmax(-1),
    "softmax_over_tokens": lambda m, x: x.softmax(1),
    "scale_by_channel": lambda m, x: x * m.gamma,
    "scale_by_token": lambda m, x: x * m.position[:, :S, :1],
    "positions": lambda m, x: x + m.position[:, :S],
    "concat_channels": lambda m, x: m.down(torch.cat([x, m.b(x)], -1)),
    "concat_tokens": lambda m, x: torch.cat([x, m.b(x)], 1)[:, 2 : S + 2],
    "class_token": lambda m, x: (torch.cat([m.token.expand(2, -1, -1), x], 1) + m.position)[:, 1:],
    "split_channels": lambda m, x: (lambda p, q: p.sigmoid() * q)(*m.up(x).chunk(2, -1)),
    "split_tokens": lambda m, x: torch.cat(x.split([4, 2], 1)[::-1], 1),
    "split_one_token": lambda m, x: torch.cat(x.split([1, 2, 3], 1)[::-1], 1),
    "slice_channels": lambda m, x: torch.cat([x[..., 8:], x[..., :8]], -1),
    "slice_tokens": lambda m, x: torch.cat([x[:, 3:], x[:, :3]], 1),
    "pad_tokens": lambda m, x: F.pad(x, (0, 0, 1, 2))[:, 2 : S + 2],
    "pad_channels_by_a_number": lambda m, x: m.down(F.pad(x, (3, C - 3), value=0.5)),
    "pad_by_nothing": lambda m, x: F.pad(x.unflatten(1, (2, 3)), (0, 0, 0, 0, 0, 0)).flatten(1, 2),
    "every_other_token": lambda m, x: torch.cat([x[:, 1::2], x[:, ::2]], 1),
    "every_third_channel": lambda m, x: m.down(torch.cat([x, x[:, :, 1::3], x[:, :, :11]], -1)),
    "glu": lambda m, x: F.glu(m.up(x), -1),
    "heads_scaled": lambda m, x: merged(heads(x) * heads(x).sigmoid()),
    "rope": lambda m, x: merged(rope(heads(x))),
    "mean_over_tokens_kept": lambda m, x: x + x.mean(1, keepdim=True),
    "squeeze_excite": lambda m, x: x * m.b(x.mean(1, keepdim=True)).sigmoid(),
    "mean_over_channels": lambda m, x: x * x.mean(-1, keepdim=True),
    "max_over_tokens": lambda m, x: x - x.amax(1, keepdim=True),
    "transposed_twice": lambda m, x: x.transpose(1, 2).relu().transpose(1, 2),
    "where": lambda m, x: torch.where(x > 0, x, m.gamma),
    "masked_fill": lambda m, x: x.masked_fill(x > 1, 0.5),
    "flattened_rows": lambda m, x: m.b(x.reshape(-1, C)).reshape(2, S, C),
    "stacked": lambda m, x: torch.stack([x, x.relu()], 0).sum(0),
    "one_token": lambda m, x: x + x[:, :1],
    "clamp_and_power": lambda m, x: x.clamp(-1, 1).pow(2).neg().exp(),
}
# Parts of size one have another placement than the rest; stacking makes an axis of its own.
NOT_FREE = ("split_one_token", "stacked")


@pytest.mark.parametrize("name", CARRIED)
def test_what_is_carried(name):
    """Only the conversions of the program's own input and output are left."""
    between = CARRIED[name]
    model = Net(lambda m, x: m.c(between(m, m.a(x))))
    naive = run_pass(model, X, LinearToConv1x1())[1]
    _, after, _ = run_pass(model, X, *default_pipeline())
    assert count(naive, PERMUTE) >= 4
    if name not in NOT_FREE:
        assert count(after, PERMUTE) == 2, after.graph
    assert_same(model, after, X)
    assert_differs_when_perturbed(after, model, X)


def attention(m, x):
    return m.b(merged(F.scaled_dot_product_attention(*map(heads, m.qkv(x).chunk(3, -1)))))


def rotary_attention(m, x):
    q, k, v = map(heads, m.qkv(x).chunk(3, -1))
    return m.b(merged(F.scaled_dot_product_attention(rope(q), rope(k), v)))


def interleaved_attention(m, x):
    q, k, v = m.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4).unbind(0)
    return m.b(merged(F.scaled_dot_product_attention(q, k, v)))


def encoder(attend, layers):
    def spelled(m, x):
        for _ in range(layers):
            x = x + attend(m, m.norm(x))
            x = x + m.down(F.gelu(m.up(m.norm(x))))
        return x

    return spelled


# permutations that belong to the placement itself: keys by row; matmul's own flags
OF_THE_FORM = {"split": 1, "batched": 2, "native": 4}


@pytest.mark.parametrize("attend", [attention, rotary_attention, interleaved_attention])
@pytest.mark.parametrize("placement", OF_THE_FORM)
def test_no_conversion_inside_an_encoder_block(attend, placement):
    found = []
    for layers in (1, 2):
        model = Net(encoder(attend, layers))
        _, after, _ = run_pass(model, X, *default_pipeline(attention=placement))
        assert_same(model, after, X, atol=2e-6)
        found.append(after)
    one, two = (count(after, PERMUTE) for after in found)
    assert two - one <= OF_THE_FORM[placement]
    assert one <= OF_THE_FORM[placement] + 2
    one, two = (count(after, *RESHAPES) for after in found)
    rotary = 4 if attend is rotary_attention else 0  # queries and keys to heads and back
    assert two - one <= {"split": rotary, "batched": 4, "native": 4}[placement]


def products(m, x):
    """Attention that is more than attention between its products, so that they stay products."""
    q, k, v = map(heads, m.qkv(x).chunk(3, -1))
    scores = (q @ k.transpose(-2, -1)).softmax(-1).sqrt()
    return m.b(merged(scores @ v))


def swapped_products(m, x):
    q, k, v = map(heads, m.qkv(x).chunk(3, -1))
    scores = (k @ q.transpose(-2, -1)).softmax(-2).sqrt()
    return m.b(merged(scores.transpose(-2, -1) @ v))


def rectified_products(m, x):
    q, k, v = m.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4).unbind(0)
    return m.b(merged((q @ k.transpose(-2, -1) / S).relu() @ v))


@pytest.mark.parametrize("attend", [products, swapped_products, rectified_products])
def test_products_come_out_as_the_heads_they_become(attend):
    model = Net(lambda m, x: m.a(attend(m, m.a(x))))
    _, after, _ = run_pass(model, X, *default_pipeline())
    # There and back; what else is moved is moved by a flag of a product.
    kept = [n for n in after.graph.nodes if n.target is PERMUTE and not feeds_product(n)]
    assert len(kept) == 2, after.graph
    assert_same(model, after, X, atol=2e-6)
    assert_differs_when_perturbed(after, model, X)


def feeds_product(permute):
    return all(user.target is aten.matmul.default for user in permute.users)


class Patches(nn.Module):
    """The start of a vision transformer."""

    def __init__(self, pooled):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, C, 4, 4)
        self.rest = Net(encoder(attention, 1))
        self.pooled = pooled

    def forward(self, image):
        tokens = self.embed(image).flatten(2).transpose(1, 2)
        if self.pooled == "class":
            tokens = torch.cat([self.rest.token.expand(image.shape[0], -1, -1), tokens], 1)
        tokens = self.rest(tokens)
        return self.rest.a(tokens[:, 0] if self.pooled == "class" else tokens.mean(1))


@pytest.mark.parametrize("pooled", ["class", "mean"])
def test_patch_embedding_needs_no_conversion(pooled):
    """The image goes in as it is and one vector comes out: no permutation but that of the keys."""
    model = Patches(pooled)
    image = seeded(2, 3, 12, 12)
    _, after, _ = run_pass(model, image, *default_pipeline())
    assert count(after, PERMUTE) == 1, after.graph
    assert_same(model, after, image)


def test_convolutions_with_channels_last_norms():
    """ConvNeXt permutes for its norm and back: both vanish."""

    def block(m, x):
        h = m.conv(x).permute(0, 2, 3, 1)
        h = F.linear(F.gelu(F.linear(F.layer_norm(h, (8,)), m.w)), m.v) * m.g
        return x + h.permute(0, 3, 1, 2)

    model = Function(block, w=seeded(32, 8) / 8, v=seeded(8, 32) / 8, g=seeded(8))
    model.conv = nn.Conv2d(8, 8, 7, padding=3, groups=8)
    x = seeded(2, 8, 5, 4)
    _, after, _ = run_pass(model, x, *default_pipeline())
    assert count(after, PERMUTE) == 0
    assert_same(model, after, x)


def test_embedding_forces_one_conversion():
    model = nn.Sequential(nn.Embedding(11, C), nn.Linear(C, C), nn.ReLU(), nn.Linear(C, 1))
    ids = torch.tensor([[1, 2, 3]])
    _, after, _ = run_pass(model, ids, *default_pipeline())
    assert count(after, PERMUTE) == 1  # the result has one channel: it needs none
    assert_same(model, after, ids)


def test_a_tensor_is_converted_once_for_all_its_users():
    def spelled(m, x):
        h = m.a(x)
        return m.b(h), m.c(h), h.cumsum(1)

    model = Net(spelled)
    _, after, _ = run_pass(model, X, *default_pipeline())
    assert count(after, PERMUTE) == 1 + 3  # x; two results; h for its result of a plain operator
    assert_same(model, after, X)


def test_alone_it_finds_nothing_to_do():
    model = Net(lambda m, x: m.norm(x).relu())
    before, after, (report,) = run_pass(model, X, AssignLayout())
    assert reasons(report) == ["no operator asks for the image layout"]
    assert [n.target for n in before.graph.nodes] == [n.target for n in after.graph.nodes]


def test_plain_neighbours_stay_plain():
    """Far from any convolution nothing is rewritten."""
    model = Net(lambda m, x: (m.a(x), x.cumsum(1).relu().cumsum(1)))
    _, after, _ = run_pass(model, X, LinearToConv1x1(), AssignLayout())
    assert count(after, PERMUTE) == 2
    assert_same(model, after, X)


@pytest.mark.parametrize("name", ["residual", "layer_norm", "concat_channels", "glu", "rope"])
@pytest.mark.parametrize("axes", [(1,), (0,), (0, 1)])
def test_dynamic_sizes(name, axes):
    between = CARRIED[name]
    model = Net(lambda m, x: m.c(between(m, m.a(x))))
    dims = {axis: torch.export.Dim(f"d{axis}", min=2, max=64) for axis in axes}
    shapes = {"x": dims}
    _, after, _ = run_pass(model, (X,), *default_pipeline(), dynamic_shapes=shapes)
    # The tables of a rotary embedding are computed from a dynamic number of tokens.
    assert count(after, PERMUTE) <= 2 + (name == "rope" and 1 in axes)
    for sizes in [(2, S), (3 if 0 in axes else 2, 9 if 1 in axes else S)]:
        assert_same(model, after, seeded(*sizes, C))


@pytest.mark.parametrize("placement", OF_THE_FORM)
def test_dynamic_tokens_in_an_encoder_block(placement):
    model = Net(encoder(attention, 1))
    dims = {1: torch.export.Dim("tokens", min=2, max=64)}
    pipeline = default_pipeline(attention=placement)
    _, after, _ = run_pass(model, (X,), *pipeline, dynamic_shapes={"x": dims})
    assert count(after, PERMUTE) <= OF_THE_FORM[placement] + 2
    for tokens in (S, 9):
        assert_same(model, after, seeded(2, tokens, C), atol=2e-6)


def test_result_keeps_order_of_axes_and_memory():
    """A caller may view the result: the last conversion is a real one."""
    model = Net(lambda m, x: m.a(x))
    _, after, _ = run_pass(model, X, *default_pipeline())
    (have,), (want,) = outputs(after, X), outputs(model, X)
    assert have.shape == want.shape
    torch.testing.assert_close(have, want, rtol=1e-5, atol=1e-6)
