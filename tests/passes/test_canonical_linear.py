"""Products with constant matrices become linears."""

import pytest
import torch
from torch import nn

from passes.canonical_linear import CanonicalLinear
from passes.fold_constants import FoldConstants
from passes.patterns.einsum import read_einsum
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
PRODUCTS = (
    aten.mm.default,
    aten.bmm.default,
    aten.matmul.default,
    aten.addmm.default,
    aten.baddbmm.default,
    aten.einsum.default,
)
W, B, X = seeded(8, 12, seed=1), seeded(12, seed=2), seeded(2, 5, 8)
W3 = seeded(8, 3, 4, seed=3)


def conv1d(m, x):
    """GPT-2's Conv1D."""
    return torch.addmm(m.b, x.view(-1, x.size(-1)), m.w).view((*x.size()[:-1], 12))


# name: (function of module and x, x, linears after, operators after besides views of weights)
CASES = {
    "gpt2_conv1d": (conv1d, X, 1),
    "matmul": (lambda m, x: x @ m.w, X, 1),
    "matmul_plus_bias": (lambda m, x: m.b + x @ m.w, X, 1),
    "matmul_vector_input": (lambda m, x: x @ m.w, seeded(8), 1),
    "matmul_vector_weight": (lambda m, x: x @ m.w[:, 0], X, 1),
    "matmul_rank_5": (lambda m, x: x @ m.w, seeded(2, 2, 2, 5, 8), 1),
    "matmul_repeated_batch": (lambda m, x: x @ m.w.expand(2, 8, 12), X, 1),
    "matmul_single_batch": (lambda m, x: x @ m.w[None], X, 1),
    "constant_on_the_left": (lambda m, x: m.w.t() @ x.transpose(1, 2), X, 1),
    "constant_on_the_left_of_vector": (lambda m, x: m.w.t() @ x, seeded(8), 1),
    "vector_on_the_left": (lambda m, x: m.w[:, 0] @ x.transpose(1, 2), X, 1),
    "mm": (lambda m, x: torch.mm(x, m.w), seeded(5, 8), 1),
    "bmm": (lambda m, x: torch.bmm(x, m.w.expand(2, 8, 12)), X, 1),
    "addmm": (lambda m, x: torch.addmm(m.b, x, m.w), seeded(5, 8), 1),
    "addmm_scaled": (lambda m, x: torch.addmm(m.b, x, m.w, alpha=0.5, beta=3), seeded(5, 8), 1),
    "addmm_beta_0": (lambda m, x: torch.addmm(m.b, x, m.w, beta=0), seeded(5, 8), 1),
    "addmm_matrix_bias": (lambda m, x: torch.addmm(x[:, :1], x, m.w, beta=2), seeded(5, 8), 1),
    "baddbmm": (lambda m, x: torch.baddbmm(m.b, x, m.w.expand(2, 8, 12)), X, 1),
    "einsum": (lambda m, x: torch.einsum("bsd,dk->bsk", x, m.w), X, 1),
    "einsum_reversed": (lambda m, x: torch.einsum("dk,bsd->bsk", m.w, x), X, 1),
    "einsum_ellipsis": (lambda m, x: torch.einsum("...d,dk->...k", x, m.w), X, 1),
    "einsum_implicit": (lambda m, x: torch.einsum("bsd,dz", x, m.w), X, 1),
    "einsum_heads": (lambda m, x: torch.einsum("bsd,dhk->bshk", x, m.w3), X, 1),
    "einsum_heads_first": (lambda m, x: torch.einsum("bsd,dhk->bhsk", x, m.w3), X, 1),
    "einsum_from_heads": (
        lambda m, x: torch.einsum("bhsk,dhk->bsd", x, m.w3),
        seeded(2, 3, 5, 4),
        1,
    ),
    "einsum_channels_first": (lambda m, x: torch.einsum("bdq,dk->bkq", x, m.w), seeded(2, 8, 5), 1),
    "einsum_to_scalar": (lambda m, x: torch.einsum("bsd,d->bs", x, m.w[:, 1]), X, 1),
    "tensordot": (lambda m, x: torch.tensordot(x, m.w3, 1), X, 1),
    "heads_from_flat": (lambda m, x: torch.mm(x.view(-1, 8), m.w).view(2, 5, 3, 4), X, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_becomes_linear(name):
    function, x, linears = CASES[name]
    model = Function(function, w=W, b=B, w3=W3)
    before, after, (report,) = run_pass(model, x, CanonicalLinear())
    assert count(before, *PRODUCTS) == 1
    assert (count(after, *PRODUCTS), count(after, aten.linear.default)) == (0, linears)
    assert report.rewrites >= 1 and not report.declined
    assert_same(model, after, x)
    assert_differs_when_perturbed(after, model, x)


def test_gpt2_conv1d_leaves_nothing_but_linear():
    model = Function(conv1d, w=W, b=B)
    _, after, _ = run_pass(model, X, CanonicalLinear(), FoldConstants())
    assert [n.target for n in after.graph.nodes if n.op == "call_function"] == [aten.linear.default]
    # The turned weight is a view of the stored one.
    stored = {t.untyped_storage().data_ptr() for t in after.state_dict.values()}
    assert stored == {model.w.untyped_storage().data_ptr(), model.b.untyped_storage().data_ptr()}
    assert_same(model, after, X)


def test_bias_becomes_part_of_the_linear():
    model = Function(lambda m, x: x @ m.w + m.b[None, None], w=W, b=B)
    _, after, _ = run_pass(model, X, CanonicalLinear(), FoldConstants())
    assert (count(after, aten.linear.default), count(after, aten.add.Tensor)) == (1, 0)
    assert_same(model, after, X)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x @ m.w + x[..., :1],  # not constant
        lambda m, x: x @ m.w + m.rows,  # one per row
        lambda m, x: torch.add(x @ m.w, m.b, alpha=2),
        lambda m, x: torch.stack([x @ m.w + m.b, x @ m.w]).sum(0),
    ],
)
def test_other_sums_stay(function):
    model = Function(function, w=W, b=B, rows=seeded(5, 12))
    _, after, _ = run_pass(model, X, CanonicalLinear())
    assert_same(model, after, X)
    assert count(after, aten.add.Tensor) == 1 or count(after, aten.linear.default) == 2


def test_flat_result_with_other_users_is_spelled_again():
    def function(m, x):
        flat = torch.mm(x.view(-1, 8), m.w)
        return flat.view(2, 5, 12), flat.sum(0)

    model = Function(function, w=W)
    _, after, _ = run_pass(model, X, CanonicalLinear())
    assert count(after, aten.linear.default) == 1
    assert_same(model, after, X)


def test_windows_stay_flat():
    """A reshape that is not undone behind the linear stays before it."""
    model = Function(lambda m, x: (x.view(2, 4, 8) @ m.w).relu(), w=W)
    x = seeded(2, 2, 2, 8)
    _, after, _ = run_pass(model, x, CanonicalLinear())
    (linear,) = [n for n in after.graph.nodes if n.target is aten.linear.default]
    assert linear.meta["val"].dim() == 3
    assert_same(model, after, x)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda m, x: x @ m.many, "matrix of its own for each batch entry"),
        (lambda m, x: torch.bmm(x, m.many), "matrix of its own for each batch entry"),
        (lambda m, x: torch.baddbmm(m.b, x, m.many), "matrix of its own for each batch entry"),
        (lambda m, x: torch.addmm(m.b, m.five, x[0].t() @ x[0, :, :1].expand(5, 12)), "left"),
        (lambda m, x: torch.einsum("bsd,bdk->bsk", x, m.many), "matrix of its own"),
        (lambda m, x: torch.einsum("bsd,k->bsdk", x, m.b), "sums over no axis"),
        (lambda m, x: torch.einsum("bsd,dk->bs", x, m.w), "one operand alone"),
        (lambda m, x: torch.einsum("bss,sk->bk", x[:, :, :5], m.w[:5]), "diagonal"),
        (lambda m, x: torch.einsum("bsd,dk->bsk", x[..., :1], m.w), "broadcasts"),
    ],
)
def test_refusals(function, reason):
    model = Function(function, w=W, b=B, many=seeded(2, 8, 12), five=seeded(5, 8))
    _, after, (report,) = run_pass(model, X, CanonicalLinear())
    assert any(reason in sentence for sentence in reasons(report)), report.declined
    assert count(after, aten.linear.default) == 0
    assert_same(model, after, X)


def test_attention_is_not_mentioned():
    model = Function(lambda m, x: x @ x.transpose(1, 2))
    _, after, (report,) = run_pass(model, X, CanonicalLinear())
    assert (report.rewrites, report.declined) == (0, ())
    assert count(after, aten.matmul.default) == 1


@pytest.mark.parametrize(
    "function",
    [
        conv1d,
        lambda m, x: torch.einsum("bsd,dhk->bhsk", x, m.w3),
        lambda m, x: m.w.t() @ x.transpose(1, 2),
        lambda m, x: torch.mm(x.view(-1, 8), m.w).view(x.shape[0], x.shape[1], 3, 4),
    ],
)
@pytest.mark.parametrize("axes", [(1,), (0, 1)])
def test_dynamic_sizes(function, axes):
    dims = {axis: torch.export.Dim(f"d{axis}", min=2, max=64) for axis in axes}
    model = Function(function, w=W, b=B, w3=W3)
    _, after, _ = run_pass(model, (X,), CanonicalLinear(), dynamic_shapes=(dims,))
    assert (count(after, *PRODUCTS), count(after, aten.linear.default)) == (0, 1)
    for sizes in [(2, 5), (2, 9)] if axes == (1,) else [(2, 5), (3, 9)]:
        assert_same(model, after, seeded(*sizes, 8))


def test_mutated_weight_is_no_constant():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("w", W.clone())

        def forward(self, x):
            self.w.add_(1)
            return x @ self.w

    _, after, (report,) = run_pass(Counter(), X, CanonicalLinear())
    assert report.rewrites == 0 and count(after, aten.matmul.default) == 1


def test_read_einsum_orders():
    read = read_einsum("b h s k, d h k -> b s d", (4, 3), 1)
    assert (read.summed, read.made) == ("hk", "d")
    assert (read.x_order, read.weight_order, read.out_order) == ([0, 2, 1, 3], [0, 1, 2], [0, 1, 2])
