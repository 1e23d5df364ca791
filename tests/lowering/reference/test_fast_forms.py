"""Fast forms in the interpreter give, bit for bit, what the plain ones do."""

from __future__ import annotations

from functools import partial

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types
from torch import Tensor, nn

from lowering.package.dtypes import FP16, FP32, INT32
from lowering.reference import load
from lowering.reference.io import carried, stored
from lowering.reference.precision import OWN_RESULTS
from lowering.reference.semantics import SEMANTICS
from lowering.reference.semantics.recurrent import gru, lstm
from lowering.reference.semantics.resize import _nearest, resize_nearest_neighbor
from lowering.reference.semantics.tensor_ops import topk

GENERATOR = torch.Generator().manual_seed(0)
# Few different numbers, so that most places tie; both zeros; the ends.
TIED = torch.randint(-3, 3, (3, 64, 5), generator=GENERATOR).float() * -0.0 + torch.randint(
    -3, 3, (3, 64, 5), generator=GENERATOR
)
ENDS = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1.0, 2.0] * 16).reshape(2, 48)
NAN = torch.where(ENDS == 1, torch.nan, ENDS)
ZEROS = torch.tensor([-0.0, 0.0, -1e-45, 1e-45] * 20)
SPECIAL = np.array(
    [0, -0.0, 1e-8, -6e-8, 5.96e-8, 65504, 65519.9, 65520, 1e9, -1e9, np.inf, np.nan, 0.1, 2049],
    np.float32,
)


@pytest.mark.parametrize("ascending", [False, True])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(
    ("x", "axis"),
    [(TIED, 1), (TIED.int(), 1), (TIED.movedim(1, 2), -1), (ENDS, 1), (NAN, 1), (-NAN, -1),
     (torch.randn(1, 5000, generator=GENERATOR).half().float(), 1), (torch.zeros(64), 0),
     (ZEROS, 0), (ZEROS.half().float(), 0), (TIED * 0.1, 1), (TIED.half().float() * 2**-24, 1)],
    ids=["ties", "integers", "last", "ends", "nan", "negative_nan", "random", "equal", "zeros",
         "float16_zeros", "float32", "subnormal"],
)  # fmt: skip
def test_topk_is_the_start_of_a_stable_sort(x: Tensor, axis: int, count: int, ascending: bool):
    found = topk(x, count, axis, ascending)
    wanted = torch.sort(x, dim=axis, descending=not ascending, stable=True)
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want.narrow(axis, 0, count), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("target", [(10, 12), (20, 24), (5, 24), (15, 12), (7, 9), (5, 6)], ids=str)
def test_nearest_resizing_picks_the_same(target: tuple[int, int]):
    x = torch.randn(1, 2, 5, 6, generator=GENERATOR)
    wanted = _nearest(_nearest(x, -2, target[0]), -1, target[1])
    assert torch.equal(resize_nearest_neighbor(x, *target), wanted)


@pytest.mark.parametrize("dtype", [FP16, FP32, INT32], ids=lambda dtype: dtype.name)
def test_numbers_are_rounded_as_numpy_does(dtype):
    given = SPECIAL if dtype.is_float else np.array([0, -1, 2**31 - 1], np.int32)
    with np.errstate(over="ignore"):
        wanted = given.astype(dtype.storage)
    value = carried(given, dtype)
    np.testing.assert_array_equal(value.numpy(), wanted.astype(given.dtype))
    np.testing.assert_array_equal(stored(value, dtype), wanted)
    np.testing.assert_array_equal(np.signbit(stored(value, dtype)), np.signbit(wanted))


@pytest.mark.parametrize(
    "array",
    [np.float32(0.1), np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)[::-1, ::2],
     np.linspace(0, 70000, 7), np.arange(5)],
    ids=["number", "strided", "float64", "integers"],
)  # fmt: skip
def test_what_is_given_is_copied(array):
    array = np.asarray(array)
    before = array.copy()
    with np.errstate(over="ignore"):
        wanted = array.astype(np.float16).astype(np.float32)
    value = carried(array, FP16)
    np.testing.assert_array_equal(value.numpy(), wanted)
    value += 1
    np.testing.assert_array_equal(array, before)
    frozen = before.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(carried(frozen, FP16).numpy(), wanted)


@pytest.mark.parametrize("dtype", ["int32", "int8", "int16", "uint8"])
@pytest.mark.parametrize(
    "numbers",
    [[0.9, -0.9, 126.7, -3.5], [2**31, -(2**31)], [2.0**31 - 128, -(2.0**31)], [np.nan, 1.5],
     [np.inf, -np.inf, 300.5, -200.5], [32767.9, -32768.9]],
    ids=["small", "ends", "last", "nan", "beyond", "sixteen"],
)  # fmt: skip
def test_casts_truncate_and_saturate(numbers, dtype):
    limits = np.iinfo(dtype)
    wanted = [0 if np.isnan(n) else int(np.clip(n, limits.min, limits.max)) for n in numbers]
    found = SEMANTICS["cast"](torch.tensor(numbers, dtype=torch.float32), dtype)
    assert found.tolist() == wanted
    every = SEMANTICS["cast"](torch.tensor(numbers * 40, dtype=torch.float32), dtype)
    assert every.tolist() == wanted * 40


def test_rounding_in_place_changes_nothing_else():
    @mb.program(input_specs=[mb.TensorSpec((2, 8), types.fp16)], opset_version=ct.target.iOS17)
    def program(x):
        wide = mb.cast(x=x, dtype="fp32")
        third = mb.mul(x=wide, y=np.float32(1 / 3))
        narrow = mb.cast(x=third, dtype="fp16")
        back = mb.sub(x=mb.cast(x=narrow, dtype="fp32"), y=third)
        return mb.add(x=narrow, y=x), back, third

    x = np.linspace(-3, 3, 16, dtype=np.float16).reshape(2, 8)
    third = x.astype(np.float32) * np.float32(1 / 3)
    narrow = third.astype(np.float16)
    loaded = load(program)
    for _ in range(2):
        total, back, kept = loaded({"x": x}).values()
        np.testing.assert_array_equal(kept, third)
        np.testing.assert_array_equal(back, narrow.astype(np.float32) - third)
        wanted = (narrow.astype(np.float32) + x.astype(np.float32)).astype(np.float16)
        np.testing.assert_array_equal(total, wanted)


def test_what_is_rounded_in_place_is_memory_of_its_own():
    x = torch.randn(1, 2, 4, 4)
    ones = torch.ones(2)
    more = {
        "add": (torch.zeros(()),), "sub": (torch.zeros(()),), "mul": (torch.ones(()),),
        "avg_pool": ((1, 1),), "batch_norm": (ones * 0, ones), "linear": (torch.eye(4),),
        "conv": (torch.eye(2).reshape(2, 2, 1, 1),), "scaled_dot_product_attention": (x, x),
    }  # fmt: skip
    for name in OWN_RESULTS:
        options = {"epsilon": 1e-5} if name == "layer_norm" else {}
        result = SEMANTICS[name](x, *more.get(name, ()), **options)
        assert result.untyped_storage().data_ptr() != x.untyped_storage().data_ptr(), name
        result.copy_(result.half())  # fails where elements share memory


def test_gru_after_torch():
    torch.manual_seed(0)
    layer = nn.GRU(5, 4)
    x, h = torch.randn(7, 3, 5), torch.randn(1, 3, 4)

    def turned(part: Tensor) -> Tensor:
        reset, update, new = part.chunk(3)
        return torch.cat([reset, new, update])

    found = gru(
        x,
        h[0],
        turned(layer.weight_ih_l0),
        turned(layer.weight_hh_l0),
        turned(layer.bias_hh_l0),
        output_sequence=True,
        reset_after=True,
        input_bias=turned(layer.bias_ih_l0),
    )
    want, end = layer(x, h)
    torch.testing.assert_close(found[0], want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1], end[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("output_sequence", [True, False])
def test_lstm_of_torch_is_the_one_written_out(
    with_bias: bool, direction: str, output_sequence: bool
):
    torch.manual_seed(0)
    x, h, c = torch.randn(7, 3, 5), torch.randn(3, 4), torch.randn(3, 4)
    weights = torch.randn(16, 5) / 2, torch.randn(16, 4) / 2
    run = partial(
        lstm,
        *(x, h, c, *weights),
        bias=torch.randn(16) if with_bias else None,
        direction=direction,
        output_sequence=output_sequence,
    )
    found, written_out = run(), run(clip=1e9)
    for got, want in zip(found, written_out, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("given", [(), ("gamma",), ("beta",), ("gamma", "beta")], ids=str)
def test_layer_norm_with_and_without_scale(given: tuple[str, ...]):
    x = torch.randn(2, 3, 40, generator=GENERATOR)
    scale = {name: torch.randn(40, generator=GENERATOR) for name in given}
    wanted = (x - x.mean(-1, keepdim=True)) * (x.var(-1, correction=0, keepdim=True) + 1e-5).rsqrt()
    wanted = wanted * scale.get("gamma", 1) + scale.get("beta", 0)
    found = SEMANTICS["layer_norm"](x, (-1,), **scale)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
