"""What follows from weights alone is stored."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from passes import fold_constants
from passes.fold_constants import FoldConstants
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
W, X = seeded(4, 8), seeded(2, 8)


def calls(program):
    return [n.target for n in program.graph.nodes if n.op == "call_function"]


def test_a_chain_becomes_one_constant():
    model = Function(lambda m, x: x * (m.w.exp().sum(0) * 2 + 1), w=W)
    before, after, (report,) = run_pass(model, X, FoldConstants())
    assert len(calls(before)) == 5 and calls(after) == [aten.mul.Tensor]
    assert report.rewrites == 1 and len(after.state_dict) == 1
    assert_same(model, after, X)
    assert_differs_when_perturbed(after, model, X)


@pytest.mark.parametrize(
    "view",
    [
        lambda w: w.t(),
        lambda w: w[:, :, None, None],
        lambda w: w.reshape(8, 4),
        lambda w: w[1:3],
        lambda w: w.chunk(2, 1)[1],
        lambda w: w.unbind(0)[2],
    ],
)
def test_a_view_shares_its_bytes(view):
    model = Function(lambda m, x: x.sum() * view(m.w), w=W)
    _, after, (report,) = run_pass(model, X, FoldConstants())
    (stored,) = after.state_dict.values()
    assert stored.untyped_storage().data_ptr() == model.w.untyped_storage().data_ptr()
    assert report.bytes_added == 0 and report.rewrites == 1
    assert_same(model, after, X)


def test_the_same_view_twice_is_one_constant():
    model = Function(lambda m, x: (x @ m.w.t()) + (x * 2 @ m.w.t()), w=W)
    _, after, _ = run_pass(model, X, FoldConstants())
    assert len(after.state_dict) == 1
    assert_same(model, after, X)


def test_different_views_of_one_weight_stay_apart():
    model = Function(lambda m, x: (x * m.w[:2]) + (x * m.w[1:3]) + (x * m.w[::2]), w=W)
    _, after, _ = run_pass(model, X, FoldConstants())
    assert len(after.state_dict) == 3
    assert_same(model, after, X)


def test_a_constant_that_others_use_is_kept():
    model = Function(lambda m, x: (x * m.w.exp()[0], x * m.w[0]), w=W)
    _, after, _ = run_pass(model, X, FoldConstants())
    assert count(after, aten.exp.default) == 0
    assert_same(model, after, X)


def test_literals_fold():
    model = Function(lambda m, x: x + torch.arange(8) * 2 + torch.full((8,), 0.5))
    _, after, _ = run_pass(model, X, FoldConstants())
    assert set(calls(after)) == {aten.add.Tensor}
    assert_same(model, after, X)


def test_a_constant_result_is_stored():
    model = Function(lambda m, x: (x, m.w * 2), w=W)
    _, after, _ = run_pass(model, X, FoldConstants())
    assert count(after, aten.mul.Tensor) == 0
    assert_same(model, after, X)


def test_parts_of_a_constant_split():
    model = Function(lambda m, x: x * m.w.split([1, 3])[0] + m.w.split([1, 3])[1][:1], w=W)
    _, after, _ = run_pass(model, X, FoldConstants())
    assert set(calls(after)) == {aten.mul.Tensor, aten.add.Tensor}
    assert_same(model, after, X)


def test_what_depends_on_an_input_stays():
    model = Function(lambda m, x: x.exp() * x.shape[0])
    _, after, (report,) = run_pass(model, X, FoldConstants())
    assert (report.rewrites, calls(after)) == (0, [aten.exp.default, aten.mul.Tensor])


def test_random_numbers_stay():
    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.rand(8)

    _, after, (report,) = run_pass(Noise(), X, FoldConstants())
    assert report.rewrites == 0 and count(after, aten.rand.default) == 1


def test_buffers_that_are_written_stay():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("steps", torch.zeros(8))

        def forward(self, x):
            self.steps += 1
            return x * (self.steps * 2)

    model = Counter()
    _, after, (report,) = run_pass(model, X, FoldConstants())
    assert report.rewrites == 0 and count(after, aten.mul.Tensor) == 2
    assert_same(Counter(), after, X)


def test_refuses_what_would_bloat_the_package(monkeypatch):
    monkeypatch.setattr(fold_constants, "_FREE_BYTES", 64 << 10)
    wide = torch.arange(256.0)
    model = Function(lambda m, x: x + (m.w[:, None] * m.w).cos(), w=wide)
    _, after, (report,) = run_pass(model, seeded(1, 256), FoldConstants())
    assert reasons(report) == ["storing it would add 0 MiB to the package"]
    assert count(after, aten.cos.default) == 1
    assert_same(model, after, seeded(1, 256))


def test_large_views_are_free(monkeypatch):
    monkeypatch.setattr(fold_constants, "_FREE_BYTES", 16)
    model = Function(lambda m, x: F.linear(x, m.w.t()), w=seeded(8, 4))
    _, after, (report,) = run_pass(model, X, FoldConstants())
    assert report.rewrites == 1 and not report.declined
    assert_same(model, after, X)


def test_refuses_uninitialised_memory():
    class Empty(nn.Module):
        def forward(self, x):
            return x + torch.empty(8)

    _, after, (report,) = run_pass(Empty(), X, FoldConstants())
    assert any("uninitialised" in reason for reason in reasons(report)), calls(after)


def test_names_tell_where_a_constant_comes_from():
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
    model.forward = lambda x: x @ model[0].weight.t()
    _, after, _ = run_pass(model, X, FoldConstants())
    assert list(after.state_dict) == ["0.weight__permute"]


def test_dynamic_sizes():
    model = Function(lambda m, x: x * m.w.exp()[0] + torch.zeros(x.shape[0], 1), w=W)
    dims = {0: torch.export.Dim("n", min=2, max=64)}
    _, after, _ = run_pass(model, (X,), FoldConstants(), dynamic_shapes=(dims,))
    assert count(after, aten.exp.default) == 0
    for n in (2, 7):
        assert_same(model, after, seeded(n, 8))
