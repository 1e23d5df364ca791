"""Attention written out by hand becomes one operator, and nothing else does."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from passes.eliminate_common import EliminateCommon
from passes.fold_constants import FoldConstants
from passes.fuse_attention import FuseAttention
from passes.simplify_views import SimplifyViews
from tests.passes.util import (
    Function,
    assert_differs_when_perturbed,
    assert_same,
    count,
    reasons,
    run_pass,
    seeded,
)

aten = torch.ops.aten
SDPA = aten.scaled_dot_product_attention.default
B, H, S, D = 2, 4, 6, 8
LOWEST = torch.finfo(torch.float32).min
lower = torch.ones(S, S, dtype=torch.bool).tril()
padding = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6], dtype=torch.bool)[:, None, None, :]


class Heads(nn.Module):
    """Calls ``spelled`` with q, k and v of (B, H, S, D), made from x by three projections."""

    def __init__(self, spelled, groups=H, **constants):
        super().__init__()
        torch.manual_seed(0)
        self.q = nn.Linear(H * D, H * D)
        self.k, self.v = (nn.Linear(H * D, groups * D) for _ in range(2))
        self.spelled = spelled
        for name, tensor in constants.items():
            self.register_buffer(name, tensor)

    def forward(self, x):
        q, k, v = (p(x).unflatten(-1, (-1, D)).transpose(1, 2) for p in (self.q, self.k, self.v))
        return self.spelled(self, q, k, v)


X = seeded(B, S, H * D)
ROOT = math.sqrt(D)
CONSTANTS = {
    "bias": seeded(1, H, S, S, seed=5),
    "lower": lower,
    "padding": padding,
    "mask": torch.zeros(S, S).masked_fill(~lower, LOWEST),
    "root": torch.tensor(ROOT),
    "low": torch.tensor(LOWEST),
}


def flat(t):
    return t.reshape(-1, t.shape[-2], t.shape[-1])


SPELLINGS = {
    "plain": lambda m, q, k, v: (q @ k.mT).softmax(-1) @ v,
    "divided": lambda m, q, k, v: (q @ k.mT / ROOT).softmax(-1) @ v,
    "multiplied": lambda m, q, k, v: (q @ k.mT * 0.3).softmax(-1) @ v,
    "multiplied_on_the_left": lambda m, q, k, v: (0.3 * (q @ k.mT)).softmax(-1) @ v,
    "divided_by_a_tensor": lambda m, q, k, v: (q @ k.mT / m.root).softmax(-1) @ v,
    "multiplied_by_a_tensor": lambda m, q, k, v: (m.root * (q @ k.mT)).softmax(-1) @ v,
    "query_scaled": lambda m, q, k, v: ((q / ROOT) @ k.mT).softmax(-1) @ v,
    "key_scaled": lambda m, q, k, v: (q @ (k * 0.3).mT).softmax(-1) @ v,
    "both_scaled": lambda m, q, k, v: ((q / ROOT**0.5) @ (k / ROOT**0.5).mT).softmax(-1) @ v,
    "key_transposed_in_the_view": lambda m, q, k, v: (
        q @ k.transpose(1, 2).permute(0, 2, 3, 1)
    ).softmax(-1) @ v,
    "mask_added": lambda m, q, k, v: (q @ k.mT / ROOT + m.mask).softmax(-1) @ v,
    "mask_on_the_left": lambda m, q, k, v: (m.mask + q @ k.mT / ROOT).softmax(-1) @ v,
    "bias_added": lambda m, q, k, v: (q @ k.mT + m.bias).softmax(-1) @ v,
    "bias_subtracted": lambda m, q, k, v: (q @ k.mT - m.bias).softmax(-1) @ v,
    "scaled_after_the_bias": lambda m, q, k, v: ((q @ k.mT + m.bias) * 0.5).softmax(-1) @ v,
    "two_masks": lambda m, q, k, v: (q @ k.mT / ROOT + m.bias + m.mask).softmax(-1) @ v,
    "subtracted_from_the_bias": lambda m, q, k, v: (m.bias - q @ k.mT).softmax(-1) @ v,
    "bias_subtracted_and_scaled": lambda m, q, k, v: (
        ((q @ k.mT - m.bias) * 0.5 + m.mask).softmax(-1) @ v
    ),
    "integer_mask": lambda m, q, k, v: (q @ k.mT + m.lower.int()).softmax(-1) @ v,
    "no_batch": lambda m, q, k, v: ((q[0, 0] @ k[0, 0].mT) / ROOT).softmax(-1) @ v[0, 0],
    "shared_key_head": lambda m, q, k, v: (q @ k[:, :1].mT).softmax(-1) @ v[:, :1],
    "number_added": lambda m, q, k, v: (q @ k.mT + 1.5).softmax(-1) @ v,
    "masked_fill": lambda m, q, k, v: (q @ k.mT).masked_fill(~m.lower, -1e9).softmax(-1) @ v,
    "masked_fill_infinite": lambda m, q, k, v: (
        (q @ k.mT / ROOT).masked_fill(~m.padding, float("-inf")).softmax(-1) @ v
    ),
    "masked_fill_by_a_tensor": lambda m, q, k, v: (
        (q @ k.mT / ROOT).masked_fill(~m.lower, m.low).softmax(-1) @ v
    ),
    "masked_fill_then_scaled": lambda m, q, k, v: (
        ((q @ k.mT).masked_fill(~m.lower, LOWEST) * 0.125).softmax(-1) @ v
    ),
    "masked_fill_then_bias": lambda m, q, k, v: (
        ((q @ k.mT).masked_fill(~m.lower, -1e9) + m.bias).softmax(-1) @ v
    ),
    "where": lambda m, q, k, v: torch.where(m.lower, q @ k.mT / ROOT, LOWEST).softmax(-1) @ v,
    "where_reversed": lambda m, q, k, v: (
        torch.where(~m.padding, torch.tensor(-1e9), q @ k.mT / ROOT).softmax(-1) @ v
    ),
    "softmax_in_float32": lambda m, q, k, v: (
        F.softmax(q @ k.mT / ROOT, -1, dtype=torch.float32).to(q.dtype) @ v
    ),
    "softmax_axis_3": lambda m, q, k, v: (q @ k.mT).softmax(3) @ v,
    "torch_matmul": lambda m, q, k, v: torch.matmul(torch.matmul(q, k.mT).softmax(-1), v),
    "bmm": lambda m, q, k, v: torch.bmm(torch.bmm(flat(q), flat(k).mT).softmax(-1), flat(v)),
    "baddbmm": lambda m, q, k, v: torch.bmm(
        torch.baddbmm(flat(m.bias.expand(B, -1, -1, -1)), flat(q), flat(k).mT, alpha=0.3).softmax(
            -1
        ),
        flat(v),
    ),
    "baddbmm_beta_0": lambda m, q, k, v: torch.bmm(
        torch.baddbmm(flat(m.bias.expand(B, -1, -1, -1)), flat(q), flat(k).mT, beta=0).softmax(-1),
        flat(v),
    ),
    "masked_bmm": lambda m, q, k, v: torch.bmm(
        (torch.bmm(flat(q), flat(k).mT) + m.mask).softmax(-1), flat(v)
    ),
    "one_head": lambda m, q, k, v: (q[:, 0] @ k[:, 0].mT).softmax(-1) @ v[:, 0],
}  # fmt: skip
CLEAN = (FoldConstants(), SimplifyViews(), EliminateCommon())


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_are_recognised(name):
    model = Heads(SPELLINGS[name], **CONSTANTS)
    before, after, (*_, report) = run_pass(model, X, *CLEAN, FuseAttention())
    assert count(before, SDPA) == 0
    assert (count(after, SDPA), report.rewrites) == (1, 1), reasons(report)
    assert count(after, aten.softmax.int, aten.matmul.default, aten.bmm.default) == 0
    assert_same(model, after, X)
    assert_differs_when_perturbed(after, model, X)


# --- refusals and near misses -----------------------------------------------------------------

NEAR_MISSES = {
    "weights_used_elsewhere": (
        lambda m, q, k, v: (lambda w: (w @ v, w))((q @ k.mT).softmax(-1)),
        "its weights are used elsewhere too",
    ),
    "scores_used_elsewhere": (
        lambda m, q, k, v: (lambda s: (s.softmax(-1) @ v, s))(q @ k.mT / ROOT),
        "the scores are used elsewhere too",
    ),
    "product_used_elsewhere": (
        lambda m, q, k, v: (lambda s: ((s / ROOT).softmax(-1) @ v, s))(q @ k.mT),
        "the scores are used elsewhere too",
    ),
    "softmax_over_queries": (
        lambda m, q, k, v: (q @ k.mT).softmax(-2) @ v,
        "its softmax does not run over the keys",
    ),
    "activation_between": (
        lambda m, q, k, v: (q @ k.mT).tanh().softmax(-1) @ v,
        "the scores pass through aten.tanh.default",
    ),
    "scale_by_head": (
        lambda m, q, k, v: (q @ k.mT * m.bias[..., :1, :1]).softmax(-1) @ v,
        "the scores pass through aten.mul.Tensor",
    ),
    "fill_that_blocks_nothing": (
        lambda m, q, k, v: (q @ k.mT).masked_fill(~m.lower, -3.0).softmax(-1) @ v,
        "the scores pass through aten.where.self",
    ),
    "fill_scaled_down": (
        lambda m, q, k, v: ((q @ k.mT).masked_fill(~m.lower, -1e4) * 1e-4).softmax(-1) @ v,
        "the scores pass through aten.where.self",
    ),
    "fill_turned_round": (
        lambda m, q, k, v: (-(q @ k.mT).masked_fill(~m.lower, -50.0) * 1.0).softmax(-1) @ v,
        "the scores pass through",
    ),
    "keys_of_another_rank": (
        lambda m, q, k, v: (q @ k[0].mT).softmax(-1) @ v,
        "different numbers of axes",
    ),
    "values_of_another_rank": (
        lambda m, q, k, v: (q @ k.mT).softmax(-1) @ v[0, 0],
        "different numbers of axes",
    ),
    "keys_for_all_batches": (
        lambda m, q, k, v: (q @ k[:1].mT).softmax(-1) @ v,
        "broadcast against each other",
    ),
    "five_axes": (
        lambda m, q, k, v: ((q[None] @ k[None].mT).softmax(-1) @ v[None])[0],
        "its queries have 5 axes",
    ),
    "one_value_per_key": (
        lambda m, q, k, v: (q @ k.mT).softmax(-1) @ v[0, 0, :, 0],
        "different numbers of axes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_misses_stay(name):
    function, reason = NEAR_MISSES[name]
    model = Heads(function, **CONSTANTS)
    _, after, (*_, report) = run_pass(model, X, *CLEAN, FuseAttention())
    assert (count(after, SDPA), report.rewrites) == (0, 0)
    assert any(reason in sentence for sentence in reasons(report)), reasons(report)
    assert_same(model, after, X)


NO_ATTENTION = {
    "no_second_product": lambda m, x: (x @ x.mT).softmax(-1),
    "classifier": lambda m, x: F.linear(x, m.w).softmax(-1),
    "weights_on_the_right": lambda m, x: x.mT @ (x @ x.mT).softmax(-1),
}


@pytest.mark.parametrize("name", NO_ATTENTION)
def test_what_is_no_attention_is_not_mentioned(name):
    model = Function(NO_ATTENTION[name], w=seeded(3, 8))
    _, after, (report,) = run_pass(model, seeded(2, 5, 8), FuseAttention())
    assert (report.rewrites, report.declined, count(after, SDPA)) == (0, (), 0)


# --- grouped heads ------------------------------------------------------------------------------


def repeat(t, n=2):
    """HuggingFace's repeat_kv."""
    b, g, s, d = t.shape
    return t[:, :, None].expand(b, g, n, s, d).reshape(b, g * n, s, d)


def sdpa(m, q, k, v, **options):
    return F.scaled_dot_product_attention(q, k, v, **options)


GROUPED = {
    "sdpa": lambda m, q, k, v: sdpa(m, q, repeat(k), repeat(v)),
    "sdpa_masked": lambda m, q, k, v: sdpa(m, q, repeat(k), repeat(v), attn_mask=m.lower),
    "sdpa_causal": lambda m, q, k, v: sdpa(m, q, repeat(k), repeat(v), is_causal=True),
    "repeat_interleave": lambda m, q, k, v: sdpa(
        m, q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    ),
    "eager": lambda m, q, k, v: (q @ repeat(k).mT / ROOT).softmax(-1) @ repeat(v),
    "eager_masked": lambda m, q, k, v: (q @ repeat(k).mT / ROOT + m.mask).softmax(-1) @ repeat(v),
}


@pytest.mark.parametrize("name", GROUPED)
def test_repeated_heads_are_dropped(name):
    model = Heads(GROUPED[name], groups=2, **CONSTANTS)
    _, after, (*_, report) = run_pass(model, X, *CLEAN, FuseAttention())
    (attention,) = [n for n in after.graph.nodes if n.target is SDPA]
    assert attention.kwargs["enable_gqa"] is True, reasons(report)
    assert [attention.args[i].meta["val"].shape[1] for i in range(3)] == [H, 2, 2]
    assert count(after, aten.expand.default) == 0
    assert_same(model, after, X)


def test_one_repeated_head_is_dropped():
    model = Heads(lambda m, q, k, v: sdpa(m, q, repeat(k, 4), repeat(v, 4)), groups=1)
    _, after, _ = run_pass(model, X, FuseAttention())
    assert count(after, aten.expand.default) == 0
    assert_same(model, after, X)


OTHER_REPEATS = {
    "keys_alone": lambda m, q, k, v: sdpa(m, q, repeat(k), v.repeat(1, 2, 1, 1)),
    "whole_groups": lambda m, q, k, v: sdpa(m, q, k.repeat(1, 2, 1, 1), v.repeat(1, 2, 1, 1)),
    "differently": lambda m, q, k, v: sdpa(m, q, repeat(k), repeat(v[:, :1], 4)),
}


@pytest.mark.parametrize("name", OTHER_REPEATS)
def test_other_repeats_stay(name):
    model = Heads(OTHER_REPEATS[name], groups=2)
    _, after, _ = run_pass(model, X, FuseAttention())
    (attention,) = [n for n in after.graph.nodes if n.target is SDPA]
    assert not attention.kwargs.get("enable_gqa")
    assert_same(model, after, X)


def test_heads_repeated_differently_are_declined_with_a_reason():
    model = Heads(OTHER_REPEATS["differently"], groups=2)
    _, _, (report,) = run_pass(model, X, FuseAttention())
    assert reasons(report) == ["keys and values are repeated differently"]


# --- nn.MultiheadAttention, dynamic sizes ---------------------------------------------------------


def test_multihead_attention_that_returns_its_weights_stays():
    class Weights(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=True)

    model = Weights().eval()
    x = seeded(2, 6, 8)
    _, after, (report,) = run_pass(model, x, FuseAttention())
    assert count(after, SDPA) == 0
    assert "its weights are used elsewhere too" in reasons(report)[0]
    assert_same(model, after, x)


@pytest.mark.parametrize("axes", [(1,), (0,), (0, 1)])
@pytest.mark.parametrize("name", ["divided", "bmm", "where"])
def test_dynamic_sizes(name, axes):
    def spelled(m, q, k, v):
        if name == "where":
            keep = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril()
            return torch.where(keep, q @ k.mT / ROOT, LOWEST).softmax(-1) @ v
        return SPELLINGS[name](m, q, k, v)

    dims = {axis: torch.export.Dim(f"d{axis}", min=2, max=64) for axis in axes}
    model = Heads(spelled)
    _, after, _ = run_pass(model, (X,), *CLEAN, FuseAttention(), dynamic_shapes={"x": dims})
    assert count(after, SDPA) == 1
    for sizes in [(B, S), (3 if 0 in axes else B, 9 if 1 in axes else S)]:
        assert_same(model, after, seeded(*sizes, H * D))


@pytest.mark.parametrize("biased", [False, True])
def test_a_query_without_keys_weighs_all_alike(biased):
    class Masked(nn.Module):
        def forward(self, q, k, v, mask):
            pairs = (mask[:, None, :] * mask[:, :, None]).bool()[:, None]
            scores = q @ k.mT / ROOT
            if biased:
                scores = scores + q.sum(-1, keepdim=True) * k.sum(-1)[:, :, None]
            return scores.masked_fill(~pairs, LOWEST).softmax(-1) @ v

    q, k, v = (seeded(B, H, S, D, seed=i) for i in range(3))
    inputs = (q, k, v, padding[:, 0, 0].long())
    _, after, (report,) = run_pass(Masked(), inputs, FuseAttention())
    assert report.rewrites == 1
    assert_same(Masked(), after, inputs)
