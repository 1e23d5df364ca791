"""Written-out activations become native operators."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.export import export

from frontend.capturing import capture
from passes.fuse_activations import FuseActivations
from tests.passes.util import Function, assert_same, count, reasons, run_pass, seeded

aten = torch.ops.aten
X = seeded(2, 5, 8) * 3
C = math.sqrt(2 / math.pi)

GELU = {
    "erf": lambda m, x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "erf_factor_first": lambda m, x: 0.5 * x * (1 + torch.erf(x * 0.70710678)),
    "erf_few_digits": lambda m, x: x * 0.5 * (1.0 + torch.erf(x / 1.41421)),
    "erf_gate_first": lambda m, x: (torch.erf(x * m.c_root) + 1) * x / 2,
    "erf_half_inside": lambda m, x: x * (0.5 * (1 + torch.erf(x / 2**0.5))),
    "erf_half_spread": lambda m, x: x * (0.5 + 0.5 * torch.erf(x / 2**0.5)),
    "erf_tensors": lambda m, x: x * m.c_half * (m.c_one + torch.erf(x * m.c_root)),
    "erf_full": lambda m, x: torch.full_like(x, 0.5) * x * (1 + torch.erf(x / 2**0.5)),
    "erfc": lambda m, x: 0.5 * x * torch.erfc(-x * 2**-0.5),
    "erf_of_scaled": lambda m, x: (y := 3 * x) * 0.5 * (1 + torch.erf(y / 2**0.5)),
    "erf_of_product": lambda m, x: (p := x * m.w) * 0.5 * (1 + torch.erf(p / 2**0.5)),
}
TANH_GELU = {
    "new_gelu": lambda m, x: 0.5 * x * (1.0 + torch.tanh(C * (x + 0.044715 * torch.pow(x, 3.0)))),
    "fast_gelu": lambda m, x: (
        0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))
    ),
    "megatron": lambda m, x: x * 0.5 * (1.0 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x))),
    "reversed": lambda m, x: (torch.tanh((x**3 * 0.044715 + x) * C) + 1) * (x * 0.5),
    "expanded": lambda m, x: x * (0.5 + 0.5 * torch.tanh(C * x + C * 0.044715 * x * x.square())),
    "sigmoid": lambda m, x: x * torch.sigmoid(2 * C * (x + 0.044715 * x**3)),
}
SILU = {
    "silu": lambda m, x: x * torch.sigmoid(x),
    "silu_reversed": lambda m, x: torch.sigmoid(x) * x,
    "silu_of_product": lambda m, x: (p := x * m.w) * torch.sigmoid(p),
    "silu_division": lambda m, x: x / (1 + torch.exp(-x)),
}
HARDSWISH = {
    "relu6": lambda m, x: x * F.relu6(x + 3) / 6,
    "clamp": lambda m, x: x * (torch.clamp(3 + x, 0, 6) * (1 / 6)),
    "hardtanh": lambda m, x: F.hardtanh(x + 3, 0, 6) / 6 * x,
    "hardsigmoid": lambda m, x: F.hardsigmoid(x) * x,
}


def shifted(x, dim=-1):
    return x - x.amax(dim, keepdim=True)


def exponential(x, dim=-1):
    return torch.exp(x - x.max(dim, keepdim=True)[0])


SOFTMAX = {
    "amax": lambda m, x: torch.exp(shifted(x)) / torch.exp(shifted(x)).sum(-1, keepdim=True),
    "max": lambda m, x: exponential(x, 1) / exponential(x, 1).sum(1, keepdim=True),
    "unshifted": lambda m, x: torch.exp(x) / torch.exp(x).sum(1, True),
    "log_then_exp": lambda m, x: torch.exp(x - torch.logsumexp(x, -1, keepdim=True)),
    "of_log_softmax": lambda m, x: F.log_softmax(x, -1).exp(),
}
LOG_SOFTMAX = {
    "logsumexp": lambda m, x: x - torch.logsumexp(x, 1, keepdim=True),
    "shifted": lambda m, x: shifted(x) - torch.log(torch.exp(shifted(x)).sum(-1, keepdim=True)),
}
GROUPS = {
    aten.gelu.default: GELU | TANH_GELU,
    aten.silu.default: SILU,
    aten.hardswish.default: HARDSWISH,
    aten.softmax.int: SOFTMAX,
    aten.log_softmax.int: LOG_SOFTMAX,
}
CASES = [(op, name) for op, spellings in GROUPS.items() for name in spellings]


def build(function):
    return Function(
        function,
        w=seeded(8, seed=1),
        c_half=torch.tensor(0.5),
        c_one=torch.ones(1),
        c_root=torch.tensor([0.5]).sqrt(),
    )


@pytest.mark.parametrize(("op", "name"), CASES, ids=[f"{op._opname}-{name}" for op, name in CASES])
def test_fuses(op, name):
    model = build(lambda m, x: GROUPS[op][name](m, x + 1) - 1)
    before, after, (report,) = run_pass(model, X, FuseActivations())
    assert (count(before, op), count(after, op)) == (0, 1)
    assert report.rewrites and not report.declined
    (node,) = [n for n in after.graph.nodes if n.target is op]
    if op is aten.gelu.default:
        assert node.kwargs.get("approximate", "none") == ("tanh" if name in TANH_GELU else "none")
    # x + 1, x * w where there is one, 3 * x where there is one, the activation, - 1
    assert sum(n.op == "call_function" for n in after.graph.nodes) <= 4
    assert_same(model, after, X)
    with pytest.raises(AssertionError):
        assert_same(build(lambda m, x: F.elu(x + 1) - 1), after, X)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x * torch.sigmoid(1.702 * x),  # QuickGELU
        lambda m, x: x * torch.sigmoid(x + 1),
        lambda m, x: x * torch.sigmoid(x[:, :1]),
        lambda m, x: x * torch.sigmoid(m.w),
        lambda m, x: (x + 1) * torch.sigmoid(x),
        lambda m, x: 2 * x * torch.sigmoid(x),
        lambda m, x: x * (1 + torch.erf(x / 2**0.5)),
        lambda m, x: 0.5 * x * (1 - torch.erf(x / 2**0.5)),
        lambda m, x: 0.5 * x * (1 + torch.erf(x)),
        lambda m, x: 0.5 * x * (1 + torch.tanh(C * (x + 0.05 * x**3))),
        lambda m, x: 0.5 * x * (1 + torch.tanh(C * (x + 0.044715 * x**2))),
        lambda m, x: x * F.relu6(x + 3) / 5,
        lambda m, x: x * torch.clamp(x + 3, 0, 5) / 6,
        lambda m, x: torch.exp(x) / torch.exp(x).sum(),
        lambda m, x: torch.exp(x) / torch.exp(x + 1).sum(-1, True),
        lambda m, x: torch.exp(x) / torch.exp(x).sum((-1, -2), True),
        lambda m, x: x - torch.logsumexp(x, (0, 1), keepdim=True),
        lambda m, x: torch.exp(x - x.amax(-1, True)),
    ],
)
def test_others_stay(function):
    model = build(function)
    before, after, (report,) = run_pass(model, X, FuseActivations())
    assert report.rewrites == 0 and not report.declined
    assert [n.target for n in after.graph.nodes] == [n.target for n in before.graph.nodes]
    assert_same(model, after, X)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: (s := torch.sigmoid(x)) + x * s,
        lambda m, x: (e := torch.exp(x)) / e.sum(-1, keepdim=True) + e,
        lambda m, x: (t := torch.erf(x / 2**0.5)) + 0.5 * x * (1 + t),
    ],
)
def test_refuses_where_a_step_is_used_elsewhere(function):
    model = build(function)
    _, after, (report,) = run_pass(model, X, FuseActivations())
    assert "is used elsewhere" in reasons(report)[0] and report.rewrites == 0
    assert_same(model, after, X)


def test_programs_of_core_aten():
    """A user's program whose composites torch has decomposed."""

    class Model(torch.nn.Module):
        def forward(self, x):
            return F.softmax(F.silu(x), -1) + F.log_softmax(F.gelu(x), 1)

    program = export(Model(), (X,)).run_decompositions()
    assert count(capture(program), aten.softmax.int, aten.silu.default) == 0
    _, after, _ = run_pass(program, (X,), FuseActivations())
    assert count(after, aten.softmax.int) == count(after, aten.log_softmax.int) == 1
    assert count(after, aten.silu.default) == count(after, aten.gelu.default) == 1
    assert_same(Model(), after, X)


def test_softmax_of_large_numbers_is_finite():
    """The unshifted spelling overflows; the native operator does not."""
    model = build(SOFTMAX["unshifted"])
    _, after, _ = run_pass(model, X, FuseActivations())
    assert_same(build(lambda m, x: F.softmax(x, 1)), after, X * 100)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: F.softmax(x - 20, 1),
        lambda m, x: F.log_softmax(3 + (x - 0.5), 1),
        lambda m, x: (x + 9).exp() / (x + 9).exp().sum(1, keepdim=True),
    ],
)
def test_a_number_that_all_scores_share_goes(function):
    model = build(function)
    _, after, _ = run_pass(model, X, FuseActivations())
    assert not count(after, aten.add.Tensor, aten.sub.Tensor)
    assert_same(model, after, X)


@pytest.mark.parametrize("shift", [torch.arange(5.0), float("-inf"), torch.ones(2, 3, 1, 5)])
def test_other_shifts_stay(shift):
    """One of each score, an infinite one, and one that makes the result wider."""
    model = build(lambda m, x: F.softmax(x + shift, -1))
    _, after, _ = run_pass(model, torch.randn(3, 4, 5), FuseActivations())
    assert count(after, aten.add.Tensor) == 1


@pytest.mark.parametrize("op", [aten.gelu.default, aten.softmax.int])
def test_dynamic_tokens(op):
    function = TANH_GELU["new_gelu"] if op is aten.gelu.default else SOFTMAX["amax"]
    dims = ({1: torch.export.Dim("tokens", min=2, max=64)},)
    model = build(function)
    _, after, _ = run_pass(model, (X,), FuseActivations(), dynamic_shapes=dims)
    assert count(after, op) == 1
    assert_same(model, after, seeded(2, 11, 8))
