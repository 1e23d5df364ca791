"""Dropout of every kind and training-mode batch norms, against evaluation mode."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from frontend.random_calls import may_draw
from passes.eliminate_common import EliminateCommon
from passes.fold_constants import FoldConstants
from passes.to_inference import ToInference
from tests.passes.util import Function, assert_same, count, reasons, run_pass, seeded

X = seeded(2, 4, 6, 6)


def drop_path(m, x):
    """Stochastic depth as HuggingFace writes it."""
    keep = 0.8
    random = keep + torch.rand((x.shape[0],) + (1,) * (x.ndim - 1))
    return x.div(keep) * random.floor_()


def timm_drop_path(m, x):
    keep = 0.8
    random = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
    return x * random.div_(keep)


KINDS = {
    "dropout": lambda m, x: F.dropout(x, 0.3, training=True),
    "dropout_in_place": lambda m, x: F.dropout(x + 0, 0.3, training=True, inplace=True),
    "certain_dropout": lambda m, x: F.dropout(x, 1.0, training=True),
    "native_dropout": lambda m, x: torch.native_dropout(x, 0.3, True)[0],
    "dropout1d": lambda m, x: F.dropout1d(x.flatten(2), 0.3, training=True).view(2, 4, 6, 6),
    "dropout2d": lambda m, x: F.dropout2d(x, 0.3, training=True),
    "dropout3d": lambda m, x: F.dropout3d(x, 0.3, training=True),
    "alpha_dropout": lambda m, x: F.alpha_dropout(x, 0.3, training=True),
    "feature_alpha_dropout": lambda m, x: F.feature_alpha_dropout(x, 0.3, training=True),
    "drop_path": drop_path,
    "timm_drop_path": timm_drop_path,
    "unscaled_drop_path": lambda m, x: x * x.new_empty((2, 1, 1, 1)).bernoulli_(0.8),
    "bernoulli": lambda m, x: x * torch.bernoulli(torch.full_like(x, 0.7)) / 0.7,
    "bernoulli_of_constant": lambda m, x: torch.bernoulli(m.keep).mul(1 / 0.7) * x,
    "uniform_below": lambda m, x: (torch.rand_like(x) < 0.7).float() * x / 0.7,
    "uniform_above": lambda m, x: x * (torch.rand(2, 4, 6, 6) >= 0.3).to(x.dtype).div(0.7),
}


@pytest.mark.parametrize("name", KINDS)
def test_becomes_identity(name):
    model = Function(lambda m, x: KINDS[name](m, x) * 2, keep=torch.full((4, 1, 1), 0.7))
    _, after, (report,) = run_pass(model, X, ToInference())
    assert_same(Function(lambda m, x: x * 2), after, X)
    assert not [n for n in after.graph.nodes if may_draw(n.target)]
    assert count(after, torch.ops.aten.mul.Tensor) == 1
    assert report.rewrites >= 1 and not report.declined
    assert "dropout was active" in report.notes[0]


def test_inactive_dropout_is_not_noted():
    model = Function(lambda m, x: torch.native_dropout(x, 0.3, False)[0] * 2)
    _, after, (report,) = run_pass(model, X, ToInference())
    assert report.rewrites == 1 and not report.notes
    assert_same(model, after, X)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.drop, self.linear = nn.Dropout(0.5), nn.Linear(6, 6)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x):
        x = self.drop(self.norm(self.conv(x)))
        return self.linear(self.norm(x.relu()))  # one norm, used twice


def exported_in_training(model, *inputs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(model.train(), inputs)


def test_module_in_training_mode_is_captured_for_evaluation():
    torch.manual_seed(0)
    model = Block().train()
    statistics = model.norm.running_mean.clone()
    _, after, (report,) = run_pass(model, X, ToInference())
    assert model.training and torch.equal(model.norm.running_mean, statistics)
    assert not report.notes and not report.declined
    assert_same(model.eval(), after, X)


def test_program_exported_in_training_mode():
    torch.manual_seed(0)
    model = Block()
    program = exported_in_training(model, X)
    before, after, (report, _, _) = run_pass(
        program, X, ToInference(), FoldConstants(), EliminateCommon()
    )
    assert before.graph_signature.buffers_to_mutate
    assert not after.graph_signature.buffers_to_mutate
    assert len(report.notes) == 2 and not report.declined
    assert_same(model.eval(), after, X)
    assert_same(model, after, seeded(2, 4, 6, 6, seed=5))


def test_running_statistics_of_a_function():
    mean, var = seeded(4), seeded(4, seed=1).abs()
    model = Function(
        lambda m, x: F.batch_norm(x, m.mean + 0, m.var + 0, training=True), mean=mean, var=var
    )
    _, after, (report,) = run_pass(model, X, ToInference())
    assert "running statistics" in report.notes[0]
    assert_same(Function(lambda m, x: F.batch_norm(x, mean, var)), after, X)


@pytest.mark.parametrize("dropout_p", [0.5, 0.0])
def test_attention(dropout_p):
    def attend(p):
        return Function(lambda m, x: F.scaled_dot_product_attention(x, x, x, dropout_p=p))

    _, after, (report,) = run_pass(attend(dropout_p), X, ToInference())
    assert_same(attend(0.0), after, X)
    assert bool(report.notes) == (dropout_p > 0) == (report.rewrites == 1)


def test_multihead_attention_exported_in_training():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
    x = seeded(2, 5, 8)
    _, after, (report,) = run_pass(exported_in_training(model, x), x, ToInference())
    assert report.notes and not report.declined
    assert count(after, torch.ops.aten.scaled_dot_product_attention.default) == 1
    assert_same(model.eval(), after, x)


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent(layer):
    torch.manual_seed(0)
    model = layer(8, 6, num_layers=2, dropout=0.5, batch_first=True)
    x = seeded(2, 5, 8)
    _, after, (report,) = run_pass(exported_in_training(model, x), x, ToInference())
    assert report.rewrites >= 1 and report.notes
    assert_same(model.eval(), after, x)


def test_random_leaky_relu():
    model = nn.RReLU()
    _, after, (report,) = run_pass(exported_in_training(model, X), X, ToInference())
    assert report.notes
    assert_same(model.eval(), after, X)


def test_random_leaky_relu_that_is_off():
    model = Function(lambda m, x: nn.functional.rrelu(x) + nn.functional.rrelu(x, 0.1, 0.5))
    _, after, (report,) = run_pass(model, X, ToInference())
    assert report.rewrites == 2 and not report.notes
    assert_same(model, after, X)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda m, x: torch.native_dropout(x, 0.3, True), "mask is used as well"),
        (lambda m, x: x + torch.randn_like(x), "draws random numbers"),
        (lambda m, x: x + torch.rand_like(x).bernoulli(), "draws random numbers"),
        (lambda m, x: x * (torch.bernoulli(torch.full_like(x, 0.7)) * 3), "draws random"),
        (lambda m, x: F.batch_norm(x, None, None, training=True), "no running statistics"),
        (
            lambda m, x: torch.ops.aten._native_batch_norm_legit_functional(
                x, None, None, m.mean, m.var, True, 0.1, 1e-5
            )[:2],
            "mean or deviation of its batch",
        ),
    ],
)
def test_refusals(function, reason):
    model = Function(function, mean=torch.zeros(4), var=torch.ones(4))
    before, after, (report,) = run_pass(model, X, ToInference())
    assert any(reason in sentence for sentence in reasons(report)), report
    assert not report.notes
    assert [n.target for n in after.graph.nodes] == [n.target for n in before.graph.nodes]


def test_dynamic_batch():
    model = Function(drop_path)
    dims = ({0: torch.export.Dim("batch", min=2, max=8)},)
    _, after, (report,) = run_pass(model, (X,), ToInference(), dynamic_shapes=dims)
    assert report.rewrites == 1
    assert_same(Function(lambda m, x: x * 1), after, seeded(5, 4, 6, 6))


def test_oracle_notices_active_dropout():
    model = Function(KINDS["dropout"])
    before, _, _ = run_pass(model, X, ToInference())
    with pytest.raises(AssertionError):
        assert_same(Function(lambda m, x: x * 1), before, X)
    assert count(before, torch.ops.aten.native_dropout.default) == 1
