"""Activations that were quantised in training: plain integers in the program and in the package."""

from __future__ import annotations

from collections.abc import Callable

import coremltools as ct
import pytest
import torch
from torch import Tensor, nn

from frontend.capturing import capture
from frontend.errors import AnePassesError
from lowering import convert, predict
from tests.frontend.test_quantized_modules import quantised_in_training

X = torch.linspace(-2, 2, 64).reshape(2, 32)
aten = torch.ops.aten


class Fixed(nn.Module):
    """Quantises with ``scale`` and ``point``, a number or a buffer."""

    def __init__(self, scale: float, point: int, kind: torch.dtype, buffers: bool) -> None:
        super().__init__()
        self.kind = kind
        self.scale: Tensor | float
        self.point: Tensor | int
        if buffers:
            self.register_buffer("scale", torch.tensor(scale))
            self.register_buffer("point", torch.tensor(point))
        else:
            self.scale, self.point = scale, point

    def forward(self, x: Tensor) -> Tensor:
        held = torch.quantize_per_tensor(x, self.scale, self.point, self.kind)  # type: ignore[arg-type]
        return held.dequantize() * 2


@pytest.mark.parametrize("buffers", [False, True], ids=["numbers", "buffers"])
@pytest.mark.parametrize(("kind", "point"), [(torch.quint8, 100), (torch.qint8, -3)], ids=str)
def test_values_are_rounded_as_torch_does(kind: torch.dtype, point: int, buffers: bool) -> None:
    model = Fixed(0.03, point, kind, buffers)
    program = capture(model, (X,))
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {t for t in targets if "quantize" in t} == {
        "quantized_decomposed.quantize_per_tensor.default",
        "quantized_decomposed.dequantize_per_tensor.default",
    }
    torch.testing.assert_close(program.module()(X)[0], model(X))
    package = convert(program, compute_precision=ct.precision.FLOAT32, skip_model_load=True)
    torch.testing.assert_close(torch.from_numpy(predict(package, {"x": X})["output"]), model(X))


def test_a_model_that_was_trained_for_it_keeps_weights_and_activations() -> None:
    model = quantised_in_training(nn.Tanh, activation_dtype="quint8")
    package = convert(model, (X,), minimum_deployment_target=ct.target.iOS18, skip_model_load=True)
    kinds = [op.op_type for op in package._mil_program.functions["main"].operations]
    assert kinds.count("constexpr_blockwise_shift_scale") == 1
    assert kinds.count("quantize") == kinds.count("dequantize") == 2
    (found,) = predict(package, {next(iter(package.input_description)): X}).values()
    torch.testing.assert_close(torch.from_numpy(found).float(), model(X), rtol=1e-2, atol=2e-2)


class Computed(nn.Module):
    """The scale is found in the input."""

    def forward(self, x: Tensor) -> Tensor:
        point = torch.zeros((), dtype=torch.int64)
        return torch.quantize_per_tensor(x, x.amax() / 128, point, torch.qint8).dequantize()


class Between(nn.Module):
    """An operator on a quantised tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8).relu().dequantize()


@pytest.mark.parametrize("make", [Computed, Between])
def test_what_no_package_has_is_refused(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(AnePassesError, match=r"quantize_per_tensor|quantized"):
        convert(make(), (X,), skip_model_load=True)
