"""Numbers that float16 or a float's digits would spoil come out as torch computes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import passes
from lowering import convert, predict
from lowering.conversion.wide_integers import WideIntegerError
from lowering.verification.parity import rel_l2

# Of float16 packages: half a dozen roundings.
FP16_BOUND = 2e-3


class Of(nn.Module):
    def __init__(self, function: Callable[..., object], **buffers: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> object:
        return self.function(x, *self.buffers())


def results(model: nn.Module, *inputs: Tensor, wide: bool = False) -> list[np.ndarray]:
    """Outputs of the float16 package of the optimized model, for the captured inputs."""
    optimized = passes.optimize_for_ane(model.eval(), inputs)
    names = optimized.program.graph_signature.user_inputs
    given = {
        str(name): value.int().numpy() if value.dtype == torch.int64 else value.numpy()
        for name, value in zip(names, inputs, strict=True)
    }
    made = convert(optimized, skip_model_load=True, allow_wide_integers=wide)
    return list(predict(made, given).values())


def error(model: nn.Module, *inputs: Tensor) -> float:
    (found,) = results(model, *inputs)
    with torch.no_grad():
        return rel_l2(torch.from_numpy(np.asarray(found)), model(*inputs))


def with_variance(value: float) -> nn.Module:
    norm = nn.BatchNorm2d(4)
    cast(Tensor, norm.running_var).fill_(value)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), norm)


def with_weight(value: float) -> nn.Module:
    linear = nn.Linear(8, 8)
    nn.init.uniform_(linear.weight, -value, value)
    return linear


@pytest.mark.parametrize("variance", [7e4, 497_160.0, 1e7])
def test_variances_beyond_fp16(variance: float):
    torch.manual_seed(0)
    assert error(with_variance(variance), torch.randn(1, 3, 8, 8) * 100) < FP16_BOUND


@pytest.mark.parametrize(
    "scale", [lambda x: x * 1e-6, nn.LayerNorm(8), lambda x: x / 1e5], ids=["mul", "norm", "div"]
)
def test_weights_beyond_fp16(scale: Callable[[Tensor], Tensor]):
    torch.manual_seed(0)
    linear = with_weight(1e6)
    model = Of(lambda x: scale(linear(x)))
    model.inner = nn.ModuleList([linear, *([scale] if isinstance(scale, nn.Module) else [])])
    assert error(model, torch.randn(4, 8)) < FP16_BOUND


@pytest.mark.parametrize("bins", [1, 8, 60, 128])
def test_counts_are_exact(bins: int):
    torch.manual_seed(0)
    experts = torch.randint(0, bins, (1000,)).float()
    model = Of(lambda x: torch.histc(x, bins, 0, bins))
    (found,) = results(model, experts)
    assert found.tolist() == model(experts).tolist()


LOWEST = torch.finfo(torch.float32).min
MASKINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "filled by the lowest": lambda s, keep: s.masked_fill(~keep, LOWEST),
    "filled by -1e9": lambda s, keep: s.masked_fill(~keep, -1e9),
    "filled by -1e4": lambda s, keep: s.masked_fill(~keep, -1e4),
    "chosen": lambda s, keep: torch.where(keep, s, LOWEST),
    "lowest added": lambda s, keep: s + torch.where(keep, 0.0, LOWEST),
    "-1e9 added": lambda s, keep: s + torch.where(keep, 0.0, -1e9),
    "-1e4 added": lambda s, keep: s + torch.where(keep, 0.0, -1e4),
    "-1e4 multiplied and added": lambda s, keep: s + (1.0 - keep.float()) * -1e4,
    "lowest multiplied and added": lambda s, keep: s + (1.0 - keep.float()) * LOWEST,
    "-1e9 multiplied and added": lambda s, keep: s + (1.0 - keep.float()) * -1e9,
}


@pytest.mark.parametrize("shape", [(2, 1, 1, 6), (2, 1, 6, 6), (2, 2, 6, 6)])
def test_rows_without_keys_average(shape: tuple[int, ...]) -> None:
    """In float32, and in float16 on the inputs that are no numbers of it."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 6, 8) for _ in range(3))
    keep = torch.ones(shape, dtype=torch.bool)
    keep[0] = False  # the first batch sees nothing
    keep[1, ..., -2:] = False

    class Attention(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> tuple[Tensor, ...]:
            eager = []
            for number, mask in enumerate(MASKINGS.values(), 8):
                scores = (q * (number / 30)) @ k.transpose(-1, -2)  # each attention has its own
                eager.append(mask(scores, keep).softmax(-1) @ v)
            given = nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=torch.where(keep, 0.0, LOWEST)
            )
            return (*eager, given)

    model, inputs = Attention(), (q, k, v, keep)
    want = model(*inputs)
    optimized = passes.optimize_for_ane(model, inputs)
    for found, expected in zip(optimized(*inputs), want, strict=True):
        assert rel_l2(found, expected) < 1e-3  # float32 rounds scores beside -1e4 to 2**-10
    for made, expected in zip(results(model, q, k, v, keep), want, strict=True):
        assert rel_l2(torch.from_numpy(made), expected) < FP16_BOUND


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (nn.GRU(4, 4, batch_first=True), torch.randn(1, 3, 4)),
        (nn.MaxPool2d(2, return_indices=True), torch.randn(1, 2, 4, 4)),
        (Of(lambda x: tuple(x.topk(2))), torch.randn(2, 5)),
        (Of(lambda x: x.split([1, 2])), torch.randn(3, 4)),
    ],
    ids=["gru", "max_pool", "topk", "split"],
)
def test_programs_can_be_decomposed_again(module: nn.Module, x: Tensor):
    program = passes.optimize_for_ane(module.eval(), (x,)).program
    again = program.run_decompositions()
    for found, want in zip(again.module()(x), program.module()(x), strict=True):
        torch.testing.assert_close(found, want)


@pytest.mark.parametrize(
    ("mode", "option"),
    [("nearest", 1.7), ("nearest", 1.3), ("nearest", 0.7), ("nearest", 0.45), ("nearest", (13, 5)),
     ("nearest-exact", 1.7), ("bilinear", 1.7), ("bilinear", (13, 5)), ("bilinear", 0.6)],
)  # fmt: skip
def test_resizes_by_any_factor(mode: str, option: float | tuple[int, int]):
    torch.manual_seed(0)
    given: dict[str, Any] = {"size" if isinstance(option, tuple) else "scale_factor": option}
    model = Of(lambda x: nn.functional.interpolate(x, **given, mode=mode))
    assert error(model, torch.randn(1, 3, 10, 11)) < FP16_BOUND


@pytest.mark.parametrize(
    "hashed",
    [lambda x: x * 2_654_435_761, lambda x: (x + 2**31) % 97, lambda x: x * x * 100_000],
    ids=["mul", "add", "square"],
)
def test_integers_beyond_int32_are_refused(hashed: Callable[[Tensor], Tensor]):
    x = torch.tensor([40_000, 50_000])
    with pytest.raises(WideIntegerError, match="outside of int32") as caught:
        results(Of(hashed), x)
    assert "allow_wide_integers" in str(caught.value) and "test_numbers.py" in str(caught.value)
    results(Of(hashed), x, wide=True)


@pytest.mark.parametrize("scale", [3.0, 7.7, 16.0])
def test_integers_of_infinities_that_are_not_selected(scale: float):
    """The logarithm of 0 among T5's buckets."""

    def bucket(x: Tensor) -> Tensor:
        far = 16 + (torch.log(x / 16) * scale).long()
        near = x.long()
        return torch.where(near < 16, near, far.clamp(max=31)).float()

    x = torch.arange(0.0, 200.0).reshape(1, 8, 1, 25)
    found = results(Of(bucket), x)[0]
    np.testing.assert_array_equal(found.reshape(-1)[:16], np.arange(16))
    assert np.abs(found - bucket(x).numpy()).max() <= 1  # float16 may miss the end of a bucket


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (1, 2, 3, 4)])
def test_products_of_integers(shape: tuple[int, ...]):
    weight = torch.arange(20).reshape(4, 5) - 7
    model = Of(lambda x, weight: x @ weight, weight=weight)
    x = torch.arange(int(np.prod(shape))).reshape(shape) * 31
    (found,) = results(model, x)
    assert found.tolist() == model(x).tolist()


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 5), (2, 6, 5, 4), (1, 6, 2, 3, 4)])
def test_slopes_per_channel(shape: tuple[int, ...]):
    torch.manual_seed(0)
    prelu = nn.PReLU(6)
    nn.init.uniform_(prelu.weight, -1, 1)
    assert error(prelu, torch.randn(shape)) < FP16_BOUND


def test_out_of_range_saturates():
    """As the conversion instruction of Arm does (*documented*: FCVTZS); NaN gives 0."""
    x = torch.tensor([3e9, -3e9, float("nan"), 1.9, -1.9])
    made = convert(
        Of(lambda x: x.int()), (x,), compute_precision=ct.precision.FLOAT32, skip_model_load=True
    )
    (found,) = predict(made, {"x": x.numpy()}).values()
    assert found.tolist() == [2**31 - 1, -(2**31), 0, 1, -1]


NUMERATORS = torch.tensor(
    [
        7,
        -7,
        2049,
        -2049,
        16_777_217,
        -16_777_219,
        2**31 - 1,
        -(2**31) + 1,
        0,
        -1,
        5,
        -1_000_000_007,
    ],
    dtype=torch.int32,
)
DENOMINATORS = torch.tensor([3, 3, 2, -2, 3, -1000, 7, 7, -5, 3, -3, 69_104], dtype=torch.int32)


# Each of integers alone; results beyond 2,048, where float16 begins to skip, and beyond 2**24.
INTEGER_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "floor division": lambda x: x // DENOMINATORS,
    "division to the floor": lambda x: torch.div(x, DENOMINATORS, rounding_mode="floor"),
    "division to zero": lambda x: torch.div(x, DENOMINATORS, rounding_mode="trunc"),
    "division to zero by a number": lambda x: torch.div(x, -3, rounding_mode="trunc"),
    "division by a number": lambda x: x // 65_537,
    "division of int64": lambda x: x.long() // 3 + (x > 0),
    "remainder": lambda x: x % DENOMINATORS,
    "fmod": lambda x: torch.fmod(x, DENOMINATORS),
    "remainder of a number": lambda x: 1_000_003 % x.clamp(min=1),
    "product": lambda x: (x // 1_000) * 997,
    "sum": lambda x: (x // 16).sum(),
    "cumulative sum": lambda x: (x // 16).cumsum(0),
    "power": lambda x: (x % 1_290) ** 3,
    "square": lambda x: torch.square(x % 46_340),
    "difference": lambda x: (x // 2).diff(),
    "negative": lambda x: -x,
    "absolute": torch.abs,
    "clamp": lambda x: x.clamp(-16_777_217, 16_777_217),
    "clamp from below": lambda x: x.clamp(min=33_554_433),
    "clamp from above": lambda x: torch.clamp_max(x, 16_777_217),
    "clamp by a tensor": lambda x: torch.clamp(x, min=DENOMINATORS * 10_007),
    "relu": torch.relu,
    "relu6": nn.functional.relu6,
    "floor of integers": torch.floor,
    "round of integers": torch.round,
    "comparison": lambda x: x > 16_777_216,
    "where": lambda x: torch.where(x > 0, x, 16_777_219),
    "masked_fill": lambda x: x.masked_fill(x < 0, -16_777_217),
    "maximum": lambda x: torch.maximum(x, DENOMINATORS * 20_000_003),
    "and": lambda x: x & 0xFFFFF,
    "shift": lambda x: x >> 3,
    "padding": lambda x: nn.functional.pad(x, (2, 1), value=16_777_217),
    "negative padding": lambda x: nn.functional.pad(x, (-2, 1)),
    "padding of booleans": lambda x: nn.functional.pad(x > 0, (1, 1), value=True),
    "padding of two axes": lambda x: nn.functional.pad(x.view(3, 4), (0, 2, 1, 0), value=-7),
    "roll": lambda x: x.roll(5),
    "gather": lambda x: x.gather(0, (x % 12).long()),
    "scatter": lambda x: torch.zeros_like(x).scatter(0, (x % 12).long().sort()[0], x),
    "sort": lambda x: x.sort()[0],
    "argmax": lambda x: (x // 2 + 1).argmax(),
    "range": lambda x: x // 8 + torch.arange(12, dtype=torch.int32) * 1_000_003,
    "matrix product": lambda x: (x % 3_001).view(3, 4) @ (x % 2_999).view(4, 3),
    "largest": lambda x: x.view(3, 4).amax(1),
}


def test_integers_stay_integers() -> None:
    functions = INTEGER_FUNCTIONS.values()
    found = results(Of(lambda x: tuple(function(x) for function in functions)), NUMERATORS)
    for (name, function), result in zip(INTEGER_FUNCTIONS.items(), found, strict=True):
        want = function(NUMERATORS)
        assert result.reshape(want.shape).tolist() == want.tolist(), name


FAR_APART = torch.tensor([[0.0, 200.0, -150.0, 3.0], [-90.0, -95.0, 0.0, -300.0]])


@pytest.mark.parametrize("precision", [ct.precision.FLOAT32, ct.precision.FLOAT16])
def test_logarithms_at_the_ends(precision: object) -> None:
    """What lies far below the largest, zero, and numbers whose exponential is nearly one."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "log_softmax": lambda x: x.log_softmax(-1),
        "log_softmax of another axis": lambda x: x.log_softmax(0),
        "cross entropy": lambda x: nn.functional.cross_entropy(
            x, x[:, 0].long() * 0 + 3, reduction="none"
        ),
        "log": lambda x: torch.log(x.clamp(min=0)),
        "log2": lambda x: torch.log2(x.clamp(min=0)),
        "log10": lambda x: torch.log10(x.clamp(min=0)),
        "rsqrt": lambda x: torch.rsqrt(x.clamp(min=0)),
        "logit": lambda x: torch.logit(x.clamp(0, 1)),
        "expm1": lambda x: torch.expm1(x / 65_536),
        "expm1 far out": lambda x: torch.expm1(x / 64),
    }
    model = Of(lambda x: tuple(function(x) for function in functions.values()))
    optimized = passes.optimize_for_ane(model, (FAR_APART,))
    made = convert(optimized, compute_precision=precision, skip_model_load=True)
    found = predict(made, {"x": FAR_APART.numpy()}).values()
    bound = FP16_BOUND if precision is ct.precision.FLOAT16 else 1e-5
    for (name, function), value in zip(functions.items(), found, strict=True):
        error = rel_l2(torch.from_numpy(np.asarray(value)), function(FAR_APART))
        assert error < bound, name
