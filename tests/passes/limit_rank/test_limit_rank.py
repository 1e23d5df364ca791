"""No tensor of more than five axes is left, and nothing else has changed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.limit_rank.limit_rank import LimitRank
from passes.limit_rank.permutation_steps import merged, steps
from tests.passes.util import Function, assert_same, run_pass, seeded

aten = torch.ops.aten
F = torch.nn.functional
X = seeded(2, 4, 6, 4)  # 192 elements
SIX = (2, 2, 2, 3, 2, 4)
EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def six(x):
    return x.reshape(SIX)


# name: function of the tensor with six axes; the result has few, exact comparison
MOVES = {
    "window_partition": lambda m, x: six(x).permute(0, 1, 3, 2, 4, 5).reshape(-1, 6, 4),
    "pixel_shuffle": lambda m, x: x.reshape(2, 2, 2, 2, 3, 4).permute(0, 1, 4, 2, 5, 3).flatten(1),
    "many_steps": lambda m, x: six(x).permute(5, 3, 1, 4, 2, 0).reshape(4, -1),
    "reversed": lambda m, x: six(x).permute(5, 4, 3, 2, 1, 0).flatten(),
    "eight_axes": lambda m, x: (
        x.reshape(2, 2, 2, 3, 2, 2, 2, 1).permute(7, 5, 3, 1, 6, 4, 2, 0).flatten(1)
    ),
    "select": lambda m, x: six(x)[:, :, 1],
    "slice": lambda m, x: six(x)[:, :, :, 1:, :, ::2].flatten(2),
    "unbind": lambda m, x: six(x).unbind(3)[1],
    "split": lambda m, x: six(x).split(2, dim=-1)[0].flatten(1),
    "stack": lambda m, x: torch.stack([x.view(2, 2, 2, 6, 4), 2 * x.view(2, 2, 2, 6, 4)], 2).sum(2),
    "concat": lambda m, x: torch.cat([six(x), six(x)[:, :, :, :2]], 3).flatten(1),
    "expand": lambda m, x: x[:, :, None, :, None, :].expand(2, 4, 2, 6, 3, 4).reshape(2, 8, 18, 4),
    "expand_far_apart": lambda m, x: (
        x[None, :, :, None, :, None].expand(3, 2, 4, 2, 6, 2, 4).flatten(2)
    ),
    "flip": lambda m, x: six(x).flip(1, -1).flatten(1),
    "index": lambda m, x: six(x)[:, :, :, torch.tensor([2, 0])].flatten(1),
    "maximum": lambda m, x: six(x).max(3).values.flatten(1),
    "minimum": lambda m, x: six(x).min(1, keepdim=True)[0].flatten(1),
    "pad": lambda m, x: F.pad(six(x), (1, 0, 0, 0, 2, 1), value=3.0).flatten(1),
    "pad_far_apart": lambda m, x: F.pad(six(x), (0, 1, 0, 0, 0, 0, 1, 1, 0, 0)).flatten(1),
    "repeat": lambda m, x: six(x).repeat(2, 1, 1, 2, 1, 3).flatten(1),
    "gather": lambda m, x: six(x).gather(3, six(x)[:, :, :, :2].gt(0).long()).flatten(1),
    "slice_write": lambda m, x: six(x).slice_scatter(six(x)[:, :1] + 1, 1, 1, 2).flatten(1),
    "select_write": lambda m, x: six(x).select_scatter(six(x)[:, :, 1], 2, 0).flatten(1),
    "embedding": lambda m, x: F.embedding(six(x).gt(0).long(), m.weight).flatten(1),
}
# The same, up to the order of summation.
COMPUTES = {
    "elementwise": lambda m, x: (six(x) * 2 + 1).relu().flatten(1),
    "broadcast": lambda m, x: (six(x) * six(x)[:, :, :1, :, :1]).flatten(1),
    "broadcast_far_apart": lambda m, x: (
        six(x) + six(x)[:1, :, :1, :, :1] - six(x)[:, :1, :, :1]
    ).flatten(1),
    "number_tensor": lambda m, x: (six(x.int()) * m.number).flatten(1),
    "mean": lambda m, x: six(x).mean((2, 4)),
    "mean_far_apart": lambda m, x: six(x).mean((0, 2, 4), keepdim=True).flatten(),
    "variance": lambda m, x: six(x).var((1, 3, 5), correction=0),
    "any": lambda m, x: (six(x) > 1).any(3).float(),
    "softmax": lambda m, x: six(x).softmax(3).flatten(1),
    "cumsum": lambda m, x: six(x).cumsum(3).flatten(1),
    "topk": lambda m, x: six(x).topk(2, 3)[0].flatten(1),
    "linear": lambda m, x: F.linear(six(x), m.weight).flatten(1),
    "layer_norm": lambda m, x: F.layer_norm(six(x), (2, 4)).flatten(1),
    "group_norm": lambda m, x: F.group_norm(six(x), 2).flatten(1),
    "matmul": lambda m, x: (six(x) @ six(x)[:1, :, :, :1].mT).flatten(1),
    "attention": lambda m, x: F.scaled_dot_product_attention(six(x), six(x), six(x)).flatten(1),
    "masked_attention": lambda m, x: F.scaled_dot_product_attention(
        six(x), six(x), six(x), six(x)[..., :1] * six(x)[..., 0][..., None, :]
    ).flatten(1),
    "einsum": lambda m, x: torch.einsum("abcdef,abgdeh->abcghdf", six(x), six(x)).flatten(1),
    "einsum_sums": lambda m, x: torch.einsum("abcdef,cg->gbd", six(x), m.pair),
    "einsum_of_one": lambda m, x: torch.einsum("abcdef->fca", six(x)),
}


def function_of_six(function):
    return Function(
        function, weight=seeded(3, 4), pair=seeded(2, 5), number=torch.tensor(2.5)
    ).eval()


def limited(function):
    model = function_of_six(function)
    _, after, (report,) = run_pass(model, X, LimitRank())
    ranks = [
        value.ndim
        for node in after.graph.nodes
        for value in torch.utils._pytree.tree_leaves(node.meta.get("val"))
        if isinstance(value, torch.Tensor)
    ]
    return model, after, report, max(ranks)


@pytest.mark.parametrize("name", MOVES)
def test_moving_is_exact(name):
    model, after, report, rank = limited(MOVES[name])
    assert rank <= 5 and report.rewrites and not report.declined
    assert_same(model, after, X, **EXACT)
    with pytest.raises(AssertionError):
        assert_same(function_of_six(lambda m, x: MOVES[name](m, x - 0.3)), after, X)


@pytest.mark.parametrize("name", COMPUTES)
def test_computing_is_the_same(name):
    model, after, report, rank = limited(COMPUTES[name])
    assert rank <= 5 and report.rewrites and not report.declined
    assert_same(model, after, X, **CLOSE)


def test_a_window_partition_is_one_permutation():
    _, after, _, _ = limited(MOVES["window_partition"])
    (moved,) = after.graph.find_nodes(op="call_function", target=aten.permute.default)
    assert moved.meta["val"].ndim == 4


def test_few_axes_are_left_alone():
    model = Function(lambda m, x: x.reshape(2, 2, 2, 6, 4).permute(4, 3, 2, 1, 0) * 2)
    before, after, (report,) = run_pass(model, X, LimitRank())
    assert not report.rewrites and len(after.graph.nodes) == len(before.graph.nodes)


def windows(m, x):
    """Attention within windows of 2 by 2, as Swin has it."""
    b, h, w, c = x.shape
    x = x.view(b, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
    x = x + torch.softmax(x @ x.mT, -1) @ x
    return x.view(b, h // 2, w // 2, 2, 2, c).transpose(2, 3).reshape(b, h, w, c)


def limited_batch(function, x=X):
    model = Function(function).eval()
    shapes = {"x": {0: torch.export.Dim("batch", min=1, max=8)}}
    return model, *run_pass(model, x, LimitRank(), dynamic_shapes=shapes)[1:]


def test_a_dynamic_batch():
    model, after, (report,) = limited_batch(windows)
    assert report.rewrites and not report.declined
    for batch in (1, 2, 5):
        assert_same(model, after, seeded(batch, 4, 6, 4), **CLOSE)


def test_a_dynamic_size_that_would_be_repeated():
    other = seeded(1, 2, 1, 3, 1, 4)

    def alternating(m, x):
        return (x.sum(3).view(x.shape[0], 1, 4, 1, 6, 1) * other).sum((1, 2))

    _, _, (report,) = limited_batch(alternating)
    assert any("size is not known" in declined.reason for declined in report.declined)


def test_an_operator_without_a_form_says_so():
    _, _, report, rank = limited(lambda m, x: six(x).cummax(2).values.flatten(1))
    assert rank == 6
    assert "Core ML refuses 6" in report.declined[0].reason


@given(st.permutations(range(7)), st.lists(st.integers(1, 3), min_size=7, max_size=7))
@settings(max_examples=60, deadline=None)
def test_steps_make_the_permutation(order, sizes):
    x = torch.arange(torch.Size(sizes).numel())
    y = x
    for view, moves in steps(sizes, order, max_rank=5):
        assert len(view) <= 5
        y = y.reshape(view).permute(moves)
    assert torch.equal(y.flatten(), x.reshape(sizes).permute(order).flatten())


def test_neighbours_that_stay_merge():
    assert merged([2, 3, 1, 4, 5], [3, 4, 2, 0, 1]) == ([6, 20], [1, 0])
    assert steps([2, 3, 4], [0, 1, 2], max_rank=5) == []
