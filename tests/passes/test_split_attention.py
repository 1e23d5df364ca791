"""Attention in three forms: parity on every spelling of a mask, folding of the scale, refusals."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from passes.attention_mask import MASKED_SCORE
from passes.fold_constants import FoldConstants
from passes.split_attention import SplitAttention
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
FORMS = ("split", "batched", "native")
SDPA = aten.scaled_dot_product_attention.default
forms = pytest.mark.parametrize("form", FORMS)
sdpa = F.scaled_dot_product_attention


class Attend(nn.Module):
    """``scaled_dot_product_attention`` of three inputs with fixed options."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, q, k, v, mask=None):
        return sdpa(q, k, v, attn_mask=mask, **self.options)


def heads(h=4, s=6, d=8, *, b=2, seed=0):
    return seeded(b, h, s, d, seed=seed)


def qkv(h=4, g=None, sq=6, sk=None, d=8, dv=None, b=2):
    g, sk, dv = g or h, sk or sq, dv or d
    return heads(h, sq, d, b=b), heads(g, sk, d, b=b, seed=1), heads(g, sk, dv, b=b, seed=2)


# name: (options, arguments)
keep = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)
bias = seeded(2, 4, 6, 6, seed=7)
lower = torch.ones(6, 6, dtype=torch.bool).tril()
LOWEST = torch.finfo(torch.float32).min


def additive(allowed, blocked):
    return torch.zeros(allowed.shape).masked_fill(~allowed, blocked)


CASES = {
    "plain": ({}, qkv()),
    "one_head": ({}, qkv(h=1)),
    "batch_1": ({}, qkv(b=1)),
    "one_token": ({}, qkv(sq=1)),
    "one_query": ({}, qkv(sq=1, sk=6)),
    "cross": ({}, qkv(sq=5, sk=9)),
    "other_value_width": ({}, qkv(dv=3)),
    "width_1": ({}, qkv(d=1)),
    "scale": ({"scale": 0.3}, qkv()),
    "scale_1": ({"scale": 1.0}, qkv()),
    "negative_scale": ({"scale": -0.5}, qkv()),
    "causal": ({"is_causal": True}, qkv()),
    "causal_more_queries": ({"is_causal": True}, qkv(sq=9, sk=5)),
    "causal_more_keys": ({"is_causal": True}, qkv(sq=5, sk=9)),
    "grouped": ({"enable_gqa": True}, qkv(h=4, g=2)),
    "grouped_one": ({"enable_gqa": True}, qkv(h=4, g=1)),
    "grouped_masked": ({"enable_gqa": True}, (*qkv(h=4, g=2), bias)),
    "grouped_causal": ({"enable_gqa": True, "is_causal": True}, qkv(h=6, g=3)),
    "grouped_other_value_width": ({"enable_gqa": True}, qkv(h=4, g=2, dv=5)),
    "one_key_head_broadcast": ({}, qkv(h=4, g=1)),
    "rank_3": ({}, tuple(t[:, 0] for t in qkv())),
    "rank_3_masked": ({}, (*(t[:, 0] for t in qkv()), bias[:, 0])),
    "rank_3_shared_mask": ({}, (*(t[:, 0] for t in qkv()), bias[0, 0])),
    "rank_3_causal": ({"is_causal": True}, tuple(t[:, 0] for t in qkv())),
    "bool_mask": ({}, (*qkv(), lower)),
    "bool_mask_by_batch": ({}, (*qkv(), keep[:, None, None, :])),
    "bool_mask_expanded": ({}, (*qkv(), keep[:, None, None, :].expand(2, 1, 6, 6))),
    "bool_mask_of_all": ({}, (*qkv(), keep[:, None, None, :] & lower)),
    "infinite_mask": ({}, (*qkv(), additive(lower, float("-inf")))),
    "lowest_mask": ({}, (*qkv(), additive(lower, LOWEST))),
    "lowest_mask_by_batch": ({}, (*qkv(), additive(keep, LOWEST)[:, None, None, :])),
    "bias_by_head": ({}, (*qkv(), bias)),
    "bias_by_head_for_all": ({}, (*qkv(), bias[:1])),
    "bias_rank_3": ({}, (*qkv(), bias[0])),
    "bias_by_query": ({}, (*qkv(), bias[..., :1])),
    "cross_masked": ({}, (*qkv(sq=3, sk=6), keep[:, None, None, :])),
    "zero_dropout": ({"dropout_p": 0.0}, qkv()),
}


@forms
@pytest.mark.parametrize("name", CASES)
def test_same_outputs(name, form):
    options, inputs = CASES[name]
    model = Attend(**options)
    before, after, (report,) = run_pass(model, inputs, SplitAttention(form=form))
    assert count(before, SDPA) == report.rewrites == 1 and not report.declined
    assert count(after, SDPA) == (form == "native")
    assert_same(model, after, inputs)


@forms
def test_constant_masks_fold(form):
    """Masks that the program holds become one additive constant."""
    inputs = qkv()
    model = Function(lambda m, x: sdpa(x, x + 1, x * 2, attn_mask=m.lower), lower=lower)
    _, after, _ = run_pass(model, (inputs[0],), SplitAttention(form=form), FoldConstants())
    (mask,) = after.state_dict.values()
    assert mask.dtype is torch.float32
    assert mask.min() == MASKED_SCORE
    assert_same(model, after, inputs[0])


@forms
@pytest.mark.parametrize("mask", ["ones", "zeros"])
def test_masks_that_mask_nothing_go(form, mask):
    constant = torch.ones(6, 6, dtype=torch.bool) if mask == "ones" else torch.zeros(6, 6)
    model = Function(lambda m, x: sdpa(x, x + 1, x * 2, attn_mask=m.mask), mask=constant)
    _, after, _ = run_pass(model, (heads(),), SplitAttention(form=form))
    assert not after.state_dict
    assert count(after, aten.where.self, aten.add.Tensor) == 1  # the x + 1 of the model
    assert_same(model, after, heads(seed=3))


@forms
def test_operators_of_each_form(form):
    _, after, _ = run_pass(Attend(), qkv(h=4), SplitAttention(form=form))
    found = [count(after, op) for op in (aten.einsum.default, aten.matmul.default, SDPA)]
    assert found == {"split": [8, 0, 0], "batched": [0, 2, 0], "native": [0, 0, 1]}[form]
    softmaxes = [n for n in after.graph.nodes if n.target is aten.softmax.int]
    assert len(softmaxes) == {"split": 4, "batched": 1, "native": 0}[form]
    if form == "split":
        assert all(n.args[1] == 1 and tuple(n.meta["val"].shape) == (2, 6, 1, 6) for n in softmaxes)


def test_keys_are_transposed_once_for_all_heads():
    _, after, _ = run_pass(Attend(), qkv(h=4), SplitAttention())
    # queries, keys, values in, and the result out: none per head
    assert count(after, aten.permute.default) == 4


def test_grouped_heads_share_their_keys():
    _, after, _ = run_pass(Attend(enable_gqa=True), qkv(h=6, g=2), SplitAttention())
    parts = [n for n in after.graph.nodes if n.target is aten.split_with_sizes.default]
    assert sorted(len(n.args[1]) for n in parts) == [2, 2, 6]


# --- fully masked rows ----------------------------------------------------------------------


@forms
@pytest.mark.parametrize("blocked", [None, float("-inf"), LOWEST])
def test_a_fully_masked_row_gives_no_nan(form, blocked):
    allowed = lower.clone()
    allowed[2] = False
    mask = allowed if blocked is None else additive(allowed, blocked)
    inputs = (*qkv(), mask)
    model = Attend()
    _, after, _ = run_pass(model, inputs, SplitAttention(form=form))
    (want,), (have,) = outputs(model, inputs), outputs(after, inputs)
    rows = [0, 1, 3, 4, 5]
    assert have.isfinite().all()
    torch.testing.assert_close(have[:, :, rows], want[:, :, rows], rtol=1e-5, atol=1e-6)
    # an average of values, whatever its weights
    values = inputs[2]
    assert (have[:, :, 2] <= values.amax(2) + 1e-5).all()
    assert (have[:, :, 2] >= values.amin(2) - 1e-5).all()


# --- chunks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [None, "by query", "by key", "causal"])
def test_chunks_with_a_remainder(masked):
    mask = {"by query": bias.repeat(1, 1, 2, 1)[:, :, :11], "by key": bias[:, :, :1]}.get(masked)
    model = Attend(is_causal=masked == "causal")
    inputs = (*qkv(sq=11, sk=6), *([] if mask is None else [mask]))
    step = SplitAttention(query_chunk=4, chunk_above=20)
    _, after, (report,) = run_pass(model, inputs, step)
    assert count(after, aten.softmax.int) == 4 * 3  # heads, chunks of 4, 4 and 3 queries
    assert "11 queries in chunks of 4" in report.notes[0]
    assert_same(model, after, inputs)


@pytest.mark.parametrize(("above", "chunks"), [(65, 2), (66, 1)])
def test_chunks_above_the_bound_only(above, chunks):
    step = SplitAttention(query_chunk=6, chunk_above=above)
    _, after, _ = run_pass(Attend(), qkv(sq=11, sk=6), step)
    assert count(after, aten.softmax.int) == 4 * chunks


def test_too_many_parts_are_batched_with_a_note():
    model, inputs = Attend(), qkv(h=4)
    _, after, (report,) = run_pass(model, inputs, SplitAttention(max_parts=3))
    assert (count(after, aten.matmul.default), count(after, aten.einsum.default)) == (2, 0)
    assert "4 heads in 1 chunks would be more than 3 parts" in report.notes[0]
    assert_same(model, after, inputs)


# --- the scale ------------------------------------------------------------------------------


class Projected(nn.Module):
    """Self-attention of ``x (B, S, 8)`` whose projections ``spelled`` writes."""

    def __init__(self, spelled, width=24, bias=True):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(8, width, bias=bias), nn.Linear(8, 8)
        self.spelled = spelled

    def forward(self, x):
        return self.spelled(self, x)


def split_heads(x, h=2):
    return x.unflatten(-1, (h, -1)).transpose(1, 2)


def one_head(m, x):
    return sdpa(m.two(x), x, x)


def separate(m, x):
    return sdpa(split_heads(m.two(x)), split_heads(x), split_heads(x))


def joint_chunks(m, x):
    return sdpa(*map(split_heads, m.one(x).chunk(3, -1)))


def joint_unbind(m, x):
    return sdpa(*m.one(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0))


def joint_per_head(m, x):
    """q, k and v of a head next to each other, as BLOOM and GPT-NeoX lay them."""
    return sdpa(*m.one(x).unflatten(-1, (2, 12)).transpose(1, 2).split(4, -1))


@forms
@pytest.mark.parametrize(
    "spelled", [one_head, separate, joint_chunks, joint_unbind, joint_per_head]
)
@pytest.mark.parametrize("with_bias", [True, False])
def test_scale_folds_into_the_projection(spelled, with_bias, form):
    model = Projected(spelled, bias=with_bias)
    x = seeded(2, 6, 8)
    _, after, _ = run_pass(model, x, SplitAttention(form=form), FoldConstants())
    assert count(after, aten.mul.Tensor) == 0
    assert count(after, aten.linear.default) == 1
    assert_same(model, after, x)
    assert_differs_when_perturbed(after, model, x)


SHARED = {
    "queries_are_keys": lambda m, x: (lambda q: sdpa(q, q, split_heads(x)))(split_heads(m.two(x))),
    "queries_are_all": lambda m, x: (lambda q: sdpa(q, q, q))(split_heads(m.two(x))),
    "queries_are_values": lambda m, x: (lambda q: sdpa(q, split_heads(x), q))(
        split_heads(m.two(x))
    ),
    "queries_are_a_result": lambda m, x: (
        lambda q: (sdpa(split_heads(q), split_heads(x), split_heads(x)), q)
    )(m.two(x)),
    "projection_read_twice": lambda m, x: (
        lambda q: sdpa(split_heads(q), split_heads(q), split_heads(x))
    )(m.two(x)),
    "first_tokens_are_queries": lambda m, x: (
        lambda p, k: sdpa(split_heads(p), split_heads(k), split_heads(x[:, 2:]))
    )(*m.two(x).split([2, 4], 1)),
    "first_batch_is_queries": lambda m, x: (
        lambda q, k: sdpa(split_heads(q[None]), split_heads(k[None]), split_heads(x[:1]))
    )(*m.two(x).unbind(0)),
    "part_read_twice": lambda m, x: (
        lambda q, k, v: sdpa(split_heads(q), split_heads(k), split_heads(v + q))
    )(*m.one(x).chunk(3, -1)),
    "behind_an_activation": lambda m, x: sdpa(
        split_heads(m.two(x).relu()), split_heads(x), split_heads(x)
    ),
    "shared_module": lambda m, x: sdpa(
        split_heads(m.two(x)), split_heads(m.two(x + 1)), split_heads(x)
    ),
    "unused_rows": lambda m, x: sdpa(
        split_heads(m.one(x)[..., :8]), split_heads(x), split_heads(x)
    ),
}


@forms
@pytest.mark.parametrize("name", SHARED)
def test_scale_reaches_the_queries_alone(name, form):
    """What else reads the projection must not be scaled."""
    model = Projected(SHARED[name])
    x = seeded(2, 6, 8)
    _, after, _ = run_pass(model, x, SplitAttention(form=form), FoldConstants())
    assert_same(model, after, x)


# --- nn.MultiheadAttention --------------------------------------------------------------------


class Multihead(nn.Module):
    def __init__(self, cross=False):
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.cross = cross

    def forward(self, x, y, padding=None):
        y = y if self.cross else x
        return self.attention(x, y, y, key_padding_mask=padding, need_weights=False)[0]


@forms
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_multihead_attention(form, cross, padded):
    model = Multihead(cross=cross).eval()
    inputs = (seeded(2, 6, 8), seeded(2, 6, 8, seed=1), *([~keep] if padded else []))
    _, after, (report,) = run_pass(model, inputs, SplitAttention(form=form))
    assert report.rewrites == 1 and count(after, SDPA) == (form == "native")
    assert_same(model, after, inputs)


# --- dynamic sizes ----------------------------------------------------------------------------


@forms
@pytest.mark.parametrize("axes", [(2,), (0,), (0, 2)])
@pytest.mark.parametrize("grouped", [False, True])
def test_dynamic_tokens_and_batch(form, axes, grouped):
    dims = {axis: torch.export.Dim(f"d{axis}", min=2, max=64) for axis in axes}
    model = Attend(enable_gqa=grouped)
    g = 2 if grouped else 4
    names = dict.fromkeys("qkv", dims)
    _, after, (report,) = run_pass(model, qkv(g=g), SplitAttention(form=form), dynamic_shapes=names)
    assert report.rewrites == 1
    for b, s in [(2, 6), (3 if 0 in axes else 2, 9 if 2 in axes else 6)]:
        assert_same(model, after, qkv(g=g, sq=s, b=b))


@forms
def test_dynamic_tokens_with_a_mask(form):
    tokens = torch.export.Dim("tokens", min=2, max=64)
    shapes = {**{name: {2: tokens} for name in "qkv"}, "mask": {1: tokens, 0: tokens}}
    model = Attend()
    _, after, _ = run_pass(model, (*qkv(), lower), SplitAttention(form=form), dynamic_shapes=shapes)
    for s in (6, 9):
        assert_same(model, after, (*qkv(sq=s), torch.ones(s, s, dtype=torch.bool).tril()))


# --- refusals ---------------------------------------------------------------------------------


def declined(model, inputs, **options):
    before, after, (report,) = run_pass(model, inputs, SplitAttention(), **options)
    assert report.rewrites == 0 and count(after, SDPA) == count(before, SDPA) == 1
    return reasons(report)


def test_refuses_five_axes():
    inputs = tuple(t[None] for t in qkv())
    assert declined(Attend(), inputs) == ["its queries have 5 axes; 3 or 4 can be rewritten"]


def test_refuses_causal_over_dynamic_tokens():
    tokens = {2: torch.export.Dim("tokens", min=2, max=64)}
    found = declined(Attend(is_causal=True), qkv(), dynamic_shapes=dict.fromkeys("qkv", tokens))
    assert found == ["it is causal over a dynamic number of tokens; pass a mask instead"]


def test_refuses_a_dynamic_number_of_heads():
    dynamic = {1: torch.export.Dim("heads", min=2, max=8)}
    found = declined(Attend(), qkv(), dynamic_shapes=dict.fromkeys("qkv", dynamic))
    assert found == ["its number of heads is dynamic"]


def test_refuses_dropout():
    model = Function(lambda m, x: sdpa(x, x, x, dropout_p=0.5))
    (reason,) = declined(model, heads())
    assert "run to_inference first" in reason
