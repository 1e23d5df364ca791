"""Linears become 1x1 convolutions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import passes
from passes.fold_constants import FoldConstants
from passes.linear_to_conv1x1 import LinearToConv1x1
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
LINEAR, CONV = aten.linear.default, aten.convolution.default
W, B = seeded(12, 8, seed=1), seeded(12, seed=2)
SHAPES = [(8,), (3, 8), (1, 8), (2, 5, 8), (1, 5, 8), (2, 1, 8), (2, 3, 5, 8), (2, 3, 2, 5, 8)]
SHAPES += [(2, 1, 3, 1, 5, 8)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_any_rank(shape, bias):
    model = Function(lambda m, x: F.linear(x, m.w, m.b if bias else None), w=W, b=B)
    x = seeded(*shape)
    before, after, (report,) = run_pass(model, x, LinearToConv1x1())
    assert (count(before, LINEAR), count(after, LINEAR), count(after, CONV)) == (1, 0, 1)
    assert report.rewrites == 1 and not report.declined
    (conv,) = [n for n in after.graph.nodes if n.target is CONV]
    assert tuple(conv.args[1].meta["val"].shape) == (12, 8, 1, 1)
    assert conv.meta["val"].dim() == 4
    assert_same(model, after, x)
    assert_differs_when_perturbed(after, model, x)


def test_tokens_lie_on_the_last_axis():
    """(B, S, C) is (B, C, 1, S): the layout of the ANE."""
    model = Function(lambda m, x: F.linear(x, m.w), w=W)
    _, after, _ = run_pass(model, seeded(2, 5, 8), LinearToConv1x1())
    (conv,) = [n for n in after.graph.nodes if n.target is CONV]
    assert tuple(conv.args[0].meta["val"].shape) == (2, 8, 1, 5)
    assert tuple(conv.meta["val"].shape) == (2, 12, 1, 5)


def test_weights_fold_to_views():
    model = nn.Linear(8, 12)
    _, after, (_, report) = run_pass(model, seeded(2, 5, 8), LinearToConv1x1(), FoldConstants())
    stored = {t.untyped_storage().data_ptr() for t in after.state_dict.values()}
    mine = {t.untyped_storage().data_ptr() for t in model.state_dict().values()}
    assert stored == mine and report.bytes_added == 0
    assert_same(model, after, seeded(2, 5, 8, seed=4))


def test_a_weight_used_twice():
    model = Function(lambda m, x: F.linear(F.linear(x, m.s), m.s), s=seeded(8, 8, seed=3))
    _, after, _ = run_pass(model, seeded(2, 5, 8), LinearToConv1x1(), FoldConstants())
    assert count(after, CONV) == 2 and len(after.state_dict) == 1
    assert_same(model, after, seeded(2, 5, 8, seed=4))


def test_one_feature_in_and_out():
    model = nn.Sequential(nn.Linear(8, 1), nn.Linear(1, 8))
    _, after, _ = run_pass(model, seeded(2, 5, 8), LinearToConv1x1())
    assert count(after, CONV) == 2
    assert_same(model, after, seeded(2, 5, 8))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(self.embedding(ids))


IDS = torch.tensor([[1, 10, 0]])


def test_refuses_a_weight_that_an_embedding_uses():
    model = Tied()
    _, after, (report,) = run_pass(model, IDS, LinearToConv1x1())
    assert (count(after, LINEAR), count(after, CONV)) == (1, 0)
    assert "tied to an embedding" in reasons(report)[0]
    assert report.declined[0].source.module == "head"
    assert_same(model, after, IDS)


def test_converts_a_tied_weight_when_told_to():
    model = Tied()
    _, after, (report, _) = run_pass(model, IDS, LinearToConv1x1(tied="convert"), FoldConstants())
    assert (count(after, LINEAR), count(after, CONV)) == (0, 1) and not report.declined
    assert len({t.untyped_storage().data_ptr() for t in after.state_dict.values()}) == 1
    assert_same(model, after, IDS)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda m, x: F.linear(x, x[0, :4]), "its weight is computed from an input"),
        (lambda m, x: F.linear(x, m.w, x[0, 0, :1].expand(12)), "its bias is computed from an"),
        (lambda m, x: F.linear(x, m.w[0]), "its weight is a vector"),
    ],
)
def test_refusals(function, reason):
    model = Function(function, w=W)
    x = seeded(2, 5, 8)
    _, after, (report,) = run_pass(model, x, LinearToConv1x1())
    assert [r[: len(reason)] for r in reasons(report)] == [reason]
    assert (count(after, LINEAR), report.rewrites) == (1, 0)
    assert_same(model, after, x)


def test_refuses_a_weight_that_the_program_writes():
    class Learns(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("w", W.clone())

        def forward(self, x):
            self.w.mul_(0.5)
            return F.linear(x, self.w)

    model = Learns()
    _, after, (report,) = run_pass(model, seeded(2, 5, 8), LinearToConv1x1())
    assert "its weight is computed from an input" in reasons(report)[0]
    assert_same(Learns(), after, seeded(2, 5, 8))


@pytest.mark.parametrize("axes", [(1,), (0,), (0, 1)])
def test_dynamic_tokens(axes):
    dims = {axis: torch.export.Dim(f"d{axis}", min=2, max=64) for axis in axes}
    model = nn.Linear(8, 12)
    shapes = (dims,)
    _, after, (report,) = run_pass(
        model, (seeded(2, 5, 8),), LinearToConv1x1(), dynamic_shapes=shapes
    )
    assert report.rewrites == 1
    for sizes in [(2, 5), (3 if 0 in axes else 2, 9 if 1 in axes else 5)]:
        assert_same(model, after, seeded(*sizes, 8))


def test_dynamic_image():
    dims = {1: torch.export.Dim("h", min=2, max=64), 2: torch.export.Dim("w", min=2, max=64)}
    model = nn.Linear(8, 12)
    _, after, _ = run_pass(model, (seeded(2, 3, 4, 8),), LinearToConv1x1(), dynamic_shapes=(dims,))
    assert count(after, CONV) == 1
    assert_same(model, after, seeded(2, 6, 5, 8))


def test_refuses_five_axes_of_dynamic_size():
    dims = {1: torch.export.Dim("h", min=2, max=64), 2: torch.export.Dim("w", min=2, max=64)}
    model = nn.Linear(8, 12)
    x = seeded(2, 3, 4, 2, 8)
    _, after, (report,) = run_pass(model, (x,), LinearToConv1x1(), dynamic_shapes=(dims,))
    assert reasons(report) == ["its input has more than four axes, one of them of dynamic size"]
    assert_same(model, after, x)


def test_new_operators_say_where_they_come_from():
    model = nn.Sequential(nn.ReLU(), nn.Linear(8, 12))
    _, after, _ = run_pass(model, seeded(2, 5, 8), LinearToConv1x1())
    (conv,) = [n for n in after.graph.nodes if n.target is CONV]
    assert conv.meta["rewritten_by"] == ("linear_to_conv1x1",)
    assert "1" in next(reversed(conv.meta["nn_module_stack"].values()))[0]


def encoder(*, batch_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=batch_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


@pytest.mark.parametrize(
    ("batch_first", "shape"),
    [(True, (1, 12, 32)), (True, (2, 12, 32)), (False, (12, 1, 32)), (False, (12, 3, 32))],
    ids=str,
)
def test_tokens_in_front_of_the_batch_lie_in_a_row(batch_first, shape):
    torch.manual_seed(0)
    model, x = encoder(batch_first=batch_first).eval(), torch.randn(shape)
    optimized = passes.optimize_for_ane(model, (x,))
    batch, tokens = shape[:2] if batch_first else (shape[1], shape[0])
    nodes = list(optimized.program.graph.nodes)
    convolved = [n for n in nodes if n.target is CONV]
    assert len(convolved) == 2 * 6
    assert {tuple(n.meta["val"].shape[i] for i in (0, 2, 3)) for n in convolved} == {
        (batch, 1, tokens)
    }
    fresh = torch.randn(shape)
    torch.testing.assert_close(optimized(fresh), model(fresh), rtol=1e-5, atol=1e-6)
