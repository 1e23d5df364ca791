"""Between two linears every pointwise operator stays channels-first, whatever its name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from passes.api import optimize_for_ane
from passes.patterns.pointwise import is_pointwise, is_pointwise_call
from tests.passes.util import assert_differs_when_perturbed, assert_same, count, seeded

aten = torch.ops.aten
# What stands for an argument of a type that has no default; optional ones that are needed as well.
SAMPLES = {
    "number": 2,
    "int": 1,
    "float": 0.5,
    "ScalarType": torch.float32,
    "Optional[str]": "floor",
}
NEEDED = {"aten::clamp": {"min": 0.2}, "aten::clip": {"min": 0.2}}
DTYPES = (torch.float32, torch.int32, torch.bool)
BATCH = 12
X = seeded(2, 6, 8)


def overloads() -> list[Any]:
    """Every functional overload of ATen that torch tags as pointwise."""
    found = []
    for name in torch._C._dispatch_get_all_op_names():
        namespace, _, rest = name.partition("::")
        packet, _, overload = rest.partition(".")
        if namespace == "aten" and hasattr(aten, packet):
            op = getattr(getattr(aten, packet), overload or "default", None)
            schema = getattr(op, "_schema", None)
            outs = schema is not None and any(a.is_out for a in schema.arguments)
            if schema is not None and not outs and is_pointwise(op):
                found.append(op)
    return sorted(found, key=str)


def call(op, dtype: torch.dtype, *tensors: torch.Tensor) -> torch.Tensor:
    """``op`` of ``tensors`` as ``dtype``, and of samples for what else it wants, as a float."""
    spare = iter(tensors)
    given: dict[str, Any] = dict(NEEDED.get(op._schema.name, {}))
    for argument in op._schema.arguments:
        kind = str(argument.type)
        if kind in ("Tensor", "Optional[Tensor]"):
            tensor = next(spare)
            given[argument.name] = tensor if dtype.is_floating_point else (3 * tensor).to(dtype)
        elif not argument.has_default_value():
            given.setdefault(argument.name, SAMPLES.get(kind))
    result = op(**given)
    parts = result if isinstance(result, tuple) else (result,)
    return sum(part.to(torch.float32) for part in parts)


def callable_ones() -> list[tuple[Any, torch.dtype]]:
    tensors = [torch.rand(2, 3, generator=torch.Generator().manual_seed(0)) for _ in range(3)]
    found = []
    for op in overloads():
        for dtype in DTYPES:
            try:
                result = call(op, dtype, *tensors)
            except (RuntimeError, TypeError):  # of another dtype, or of complex numbers only
                continue
            assert result.shape == tensors[0].shape, op
            found.append((op, dtype))
            break
    return found


CASES = callable_ones()


class Between(nn.Module):
    """``out(op(a(x), b(x)))`` for each of some operators."""

    def __init__(self, cases: list[tuple[Any, torch.dtype]]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (nn.Linear(8, 16) for _ in range(3))
        self.outs = nn.ModuleList(nn.Linear(16, 8) for _ in cases)
        self.cases = cases

    def forward(self, x):
        tensors = [layer(x).sigmoid() for layer in (self.a, self.b, self.c)]
        results = (call(op, dtype, *tensors) for op, dtype in self.cases)
        return tuple(out(result) for out, result in zip(self.outs, results, strict=True))


def test_the_list_holds_what_it_should():
    ops = {op for op, _ in CASES}
    assert len(ops) > 200
    assert {aten.erfc.default, aten.hypot.default, aten.copysign.Scalar, aten.lgamma.default} < ops
    assert {aten.erfinv.default, aten.bitwise_left_shift.Tensor, aten.frexp.Tensor} < ops
    assert {aten._to_copy.default, aten.hardswish.default, aten.mvlgamma.default} < ops


@pytest.mark.parametrize("start", range(0, len(CASES), BATCH))
def test_one_permutation_in_and_one_out(start):
    cases = CASES[start : start + BATCH]
    model = Between(cases)
    optimized = optimize_for_ane(model, (X,))
    # All share the one on the way in.
    assert count(optimized.program, aten.permute.default) <= 1 + len(cases), cases
    with torch.no_grad():
        pairs = zip(model(X), optimized(X), cases, strict=True)
    for expected, found, case in pairs:
        torch.testing.assert_close(
            found, expected, rtol=1e-5, atol=1e-6, equal_nan=True, msg=lambda m, c=case: f"{c}: {m}"
        )
    assert_differs_when_perturbed(optimized.program, model, (X,))


def activation(function):
    return nn.Sequential(nn.Linear(8, 16), function, nn.Linear(16, 8)).eval()


@pytest.mark.parametrize(
    "function",
    [
        nn.ReLU6(), nn.RReLU(), nn.CELU(), nn.SELU(), nn.Mish(), nn.Softsign(), nn.Tanhshrink(),
        nn.LogSigmoid(), nn.Hardshrink(), nn.Softshrink(), nn.Threshold(0.1, 20.0), nn.Hardtanh(),
        nn.Hardsigmoid(), nn.PReLU(), nn.Dropout(0.5), nn.GELU(), nn.SiLU(),
    ],
    ids=lambda module: type(module).__name__,
)  # fmt: skip
def test_modules_of_one_activation(function):
    model = activation(function)
    optimized = optimize_for_ane(model, (X,))
    assert count(optimized.program, aten.permute.default) <= 2
    assert_same(model, optimized, (X,))


class Mixed(nn.Module):
    """Operands that broadcast, constants, results of another dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale = nn.Parameter(seeded(16))
        self.bits = nn.Buffer(torch.arange(16) % 3)

    def forward(self, x):
        y = self.a(x)
        y = torch.hypot(y, self.scale).copysign(y - 0.5)
        y = torch.where(y.signbit(), torch.special.erfcx(y.abs()), torch.nextafter(y, self.scale))
        n = torch.bitwise_left_shift((8 * y).to(torch.int32), self.bits)
        return self.b(y + F.relu(n.float()).clamp(max=self.scale) / 8)


@pytest.mark.parametrize("shape", [(2, 6, 8), (5, 8), (2, 3, 4, 8)])
def test_chains_with_constants_at_several_ranks(shape):
    model, x = Mixed(), seeded(*shape)
    optimized = optimize_for_ane(model, (x,))
    assert count(optimized.program, aten.permute.default) <= 2
    assert_same(model, optimized, (x,))


def test_with_a_dynamic_number_of_tokens():
    model, dims = Mixed(), {"x": {1: torch.export.Dim("tokens", min=2, max=64)}}
    optimized = optimize_for_ane(model, (X,), dynamic_shapes=dims)
    assert count(optimized.program, aten.permute.default) <= 2
    for tokens in (6, 2, 17):
        assert_same(model, optimized, (seeded(2, tokens, 8),))


@pytest.mark.parametrize(
    "op", [aten.equal.default, aten.add_.Tensor, aten.cumsum.default, aten.prelu.default, "output"]
)
def test_what_is_not_pointwise(op):
    assert not is_pointwise(op)


def test_a_call_that_draws_is_none():
    calls = [fx.Graph().call_function(aten.rrelu.default, (0,), {"training": t}) for t in (0, 1)]
    assert [is_pointwise_call(node) for node in calls] == [True, False]


class Reduced(nn.Module):
    """A reduction over tokens or channels between two linears."""

    def __init__(self, reduce) -> None:
        super().__init__()
        self.a, self.b, self.reduce = nn.Linear(8, 16), nn.Linear(16, 8), reduce

    def forward(self, x):
        y = self.a(x)
        return self.b(y + self.reduce(y).float())


@pytest.mark.parametrize(
    "reduce",
    [
        lambda y: y.prod(1, keepdim=True),
        lambda y: (y > 0).any(-1, keepdim=True),
        lambda y: (y > 0).all(1, keepdim=True),
        lambda y: y.argmax(-1, keepdim=True),
        lambda y: y.argmin(1, keepdim=True),
        lambda y: y.amax((1, 2), keepdim=True),
        lambda y: y.std(-1, keepdim=True),
        lambda y: torch.any(y > 1, dim=(1, 2), keepdim=True),
    ],
)
def test_reductions_stay_channels_first(reduce):
    model = Reduced(reduce)
    optimized = optimize_for_ane(model, (X,))
    assert count(optimized.program, aten.permute.default) <= 2
    assert_same(model, optimized, (X,))
