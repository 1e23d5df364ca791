"""Weights that are objects of torchao or of torch.ao: dense in the program, with their encoding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frontend.capturing import capture
from frontend.encoding import DenseWeightWarning, Encoding
from frontend.errors import CaptureError

X = torch.randn(2, 32)


class Integers(Tensor):
    """As torchao has it: integers, and a scale and zero point for each block."""

    def __new__(cls, qdata: Tensor, scale: Tensor, zero_point: Tensor | None, dtype: torch.dtype):
        return Tensor._make_wrapper_subclass(cls, qdata.shape, dtype=dtype)

    def __init__(
        self, qdata: Tensor, scale: Tensor, zero_point: Tensor | None, dtype: torch.dtype
    ) -> None:
        self.qdata, self.scale, self.zero_point = qdata, scale, zero_point
        self.act_quant_kwargs: object = None

    def __tensor_flatten__(self) -> tuple[list[str], object]:
        return ["qdata", "scale", "zero_point"], self.dtype

    @classmethod
    def __tensor_unflatten__(cls, held, dtype, size, stride) -> Integers:
        return cls(held["qdata"], held["scale"], held["zero_point"], dtype)

    def dequantize(self) -> Tensor:
        block = self.qdata.shape[1] // self.scale.shape[1]
        points = torch.zeros_like(self.scale) if self.zero_point is None else self.zero_point
        steps = self.qdata - points.repeat_interleave(block, 1)
        return (steps * self.scale.repeat_interleave(block, 1)).to(self.dtype)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return args[0]
        dense = [a.dequantize() if isinstance(a, Integers) else a for a in args]
        return func(*dense, **(kwargs or {}))


def linear(dtype: torch.dtype = torch.float32, points: bool = False, blocks: int = 4) -> nn.Linear:
    layer = nn.Linear(32, 16).to(dtype)
    codes = torch.randint(-8, 8, (16, 32), dtype=torch.int8)
    scales = torch.rand(16, blocks, dtype=dtype) + 0.5
    zeros = torch.randint(-3, 3, (16, blocks), dtype=torch.int8) if points else None
    layer.weight = nn.Parameter(Integers(codes, scales, zeros, dtype), requires_grad=False)
    return layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("points", [False, True], ids=["symmetric", "affine"])
def test_integers_of_a_library_are_found_in_the_program(dtype: torch.dtype, points: bool) -> None:
    model = linear(dtype, points)
    held: Any = model.weight
    program = capture(model, (X.to(dtype),))
    assert isinstance(model.weight, Integers)
    encoding = Encoding.of(program.state_dict, "weight")
    assert encoding is not None and (encoding.bits, encoding.is_signed) == (4, True)
    found: Any = program.state_dict["weight"]
    assert torch.equal(encoding.integers(found), held.qdata.long())
    # Half precision rounds the product once more; the program has what the integers stand for.
    exact = Integers(held.qdata, held.scale.float(), held.zero_point, torch.float32).dequantize()
    assert torch.equal(found, exact)


def test_a_weight_of_two_modules_is_one() -> None:
    first = linear()
    second = nn.Linear(32, 16)
    second.weight = first.weight
    program = capture(nn.Sequential(first, nn.Linear(16, 32), second), (X,))
    homes = [name for name in program.state_dict if name.endswith("/ane_form")]
    assert len(homes) == 1


def test_forms_of_their_own_are_dense_and_said_to_be() -> None:
    model: Any = linear()
    model.weight.qdata = model.weight.qdata.float()
    with pytest.warns(DenseWeightWarning, match="weight: Integers holds no integer for each value"):
        program = capture(model, (X,))
    assert Encoding.of(program.state_dict, "weight") is None
    torch.testing.assert_close(program.module()(X)[0], X @ model.weight.dequantize().T + model.bias)


def test_activations_that_are_quantised_by_their_values_are_refused() -> None:
    model: Any = linear()
    model.weight.act_quant_kwargs = object()
    with pytest.raises(CaptureError, match=r"quantises activations(.|\n)*quantise the weights"):
        capture(model, (X,))


def quantised_in_training(
    after: type[nn.Module] = nn.ReLU, *, finish: bool = True, **options
) -> nn.Module:
    """A linear and one layer more, by coremltools' quantizer."""
    from coremltools.optimize.torch.quantization import LinearQuantizer, LinearQuantizerConfig

    settings = {"activation_dtype": "float32", "milestones": [0, 1, 1, 1], **options}
    config = LinearQuantizerConfig.from_dict({"global_config": settings})
    quantizer = LinearQuantizer(nn.Sequential(nn.Linear(32, 16), after()), config)
    model = quantizer.prepare((X,))
    model(X)
    quantizer.step()
    return quantizer.finalize().eval() if finish else model.eval()


@pytest.mark.parametrize(
    ("options", "bits", "is_signed"),
    [
        ({}, 8, True),
        ({"weight_dtype": "qint4"}, 4, True),
        ({"weight_dtype": "quint8", "quantization_scheme": "affine"}, 8, False),
    ],
    ids=["int8", "int4", "uint8"],
)
def test_reference_modules_keep_their_integers(
    options: dict[str, Any], bits: int, is_signed: bool
) -> None:
    model = quantised_in_training(**options)
    layer: Any = next(m for m in model.modules() if hasattr(m, "get_quantized_weight"))
    before = copy.copy(vars(layer))
    program = capture(model, (X,))
    assert vars(layer).keys() == before.keys()
    ((name, weight),) = [
        (n, t) for n, t in program.state_dict.items() if f"{n}/ane_form" in program.state_dict
    ]
    encoding = Encoding.of(program.state_dict, name)
    assert encoding is not None and encoding.bits == bits
    codes = layer.get_quantized_weight().int_repr().long()
    assert torch.equal(encoding.integers(weight), codes)
    assert encoding.is_signed == (is_signed or int(codes.max()) < 128)
    assert torch.equal(weight, layer.get_weight())
    torch.testing.assert_close(program.module()(X)[0], model(X))


def test_weights_that_changed_after_their_compression_are_dense() -> None:
    from coremltools.optimize.torch.quantization import (
        PostTrainingQuantizer,
        PostTrainingQuantizerConfig,
    )

    config = PostTrainingQuantizerConfig.from_dict({"global_config": {"weight_dtype": "int8"}})
    model: Any = PostTrainingQuantizer(nn.Sequential(nn.Linear(32, 16)), config).compress()
    assert Encoding.of(capture(model, (X,)).state_dict, "0.weight") is not None
    model[0].weight.data += 1e-5
    with pytest.warns(DenseWeightWarning, match=r"0\.weight: its values are not those"):
        program = capture(model, (X,))
    assert Encoding.of(program.state_dict, "0.weight") is None


def dynamic() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(32, 16)), {nn.Linear})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: quantised_in_training(finish=False), r"call finalize\(\)"),
        (dynamic, "quantised tensors(.|\n)*quantise the weights alone"),
    ],
    ids=["unfinished", "dynamic"],
)
def test_what_cannot_be_kept_is_refused_with_a_way_out(
    make: Callable[[], nn.Module], message: str
) -> None:
    with pytest.raises(CaptureError, match=message):
        capture(make(), (X,))


def test_torchao_itself() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    model = nn.Sequential(nn.Linear(32, 16))
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    program = capture(model, (X,))
    encoding = Encoding.of(program.state_dict, "0.weight")
    assert encoding is not None
    held: Any = model[0].weight
    assert torch.equal(encoding.integers(program.state_dict["0.weight"]), held.qdata.long())
