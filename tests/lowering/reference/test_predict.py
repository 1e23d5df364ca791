"""Converted models run in the interpreter beside eager torch."""

from __future__ import annotations

from pathlib import Path

import coremltools as ct
import coremltools.optimize as cto
import numpy as np
import pytest
import torch
from torch import nn

from lowering import convert
from lowering.reference import InputError, load, make_state, predict
from tests.lowering.reference.reference_models import converted, program_of


class Block(nn.Module):
    """A convolution, a norm and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(16)
        self.linear = nn.Linear(16, 48)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.norm(torch.relu(self.conv(x)).flatten(2).transpose(1, 2))
        q, k, v = self.linear(y).chunk(3, -1)
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        return attended, attended.mean(1).softmax(-1)


@pytest.fixture(scope="module")
def block() -> tuple[ct.models.MLModel, torch.Tensor, list[np.ndarray]]:
    torch.manual_seed(0)
    module, x = Block(), torch.randn(2, 3, 16, 16)
    expected = [item.detach().numpy() for item in module(x)]
    return converted(module, x), x, expected


def test_close_to_eager_in_every_precision(block) -> None:
    model, x, expected = block
    errors = {}
    for precision in ("fp32", "fp16", "strict"):
        found = predict(model, {"x0": x.numpy()}, precision=precision).values()
        errors[precision] = max(
            float(np.abs(a.astype(np.float32) - b).max())
            for a, b in zip(found, expected, strict=True)
        )
    # fp32 still reads weights that the package stores as fp16.
    assert errors["fp32"] < 1e-3
    assert errors["fp16"] < 5e-3
    assert errors["fp32"] < errors["fp16"] <= errors["strict"] < 2e-2


def test_package_model_and_program_agree_bit_for_bit(block, tmp_path: Path) -> None:
    model, x, _ = block
    model.save(str(tmp_path / "m.mlpackage"))
    inputs = {"x0": x.numpy()}
    first = predict(model, inputs)
    loaded = load(tmp_path / "m.mlpackage")
    for other in (
        predict(model._mil_program, inputs),
        loaded(inputs),
        loaded(inputs),
        predict(loaded, inputs),
    ):
        assert list(other) == list(first)
        for name in first:
            np.testing.assert_array_equal(other[name], first[name])


def test_dtypes_are_those_of_the_model(block) -> None:
    model, x, _ = block
    names = [output.name for output in model._spec.description.output]
    outputs = predict(model, {"x0": x.numpy()})
    assert list(outputs) == names
    # The graph passes leave the outputs of a model converted to fp16 in fp16.
    assert all(value.dtype == np.float16 for value in outputs.values())
    unrounded = predict(model, {"x0": x.numpy()}, precision="fp32")
    assert all(value.dtype == np.float32 for value in unrounded.values())


def test_strict_sums_round_each_addition() -> None:
    # 2048 ones and then more: fp16 cannot count beyond 2048 one at a time.
    program = program_of(
        lambda x: __import__("coremltools").converters.mil.Builder.reduce_sum(x=x, axes=[0]),
        (4096,),
        ct.converters.mil.mil.types.fp16,
    )
    ones = {"x": np.ones(4096, np.float16)}
    assert next(iter(predict(program, ones).values())).item() == 4096
    assert next(iter(predict(program, ones, precision="strict").values())).item() == 2048


class Cache(nn.Module):
    """Adds its input to a buffer at a running place and returns a norm of the buffer."""

    cache: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.zeros(64, 4, dtype=torch.float16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.cache[:-1] = self.cache[1:].clone()
        self.cache[-1:] = x
        return self.cache * 0.5


def test_state_over_64_steps_equals_eager() -> None:
    torch.manual_seed(0)
    module = Cache().eval()
    traced = torch.jit.trace(module, torch.randn(1, 4).half())
    model = ct.convert(
        traced,
        inputs=[ct.TensorType("x", shape=(1, 4), dtype=np.float16)],
        outputs=[ct.TensorType("y", dtype=np.float16)],
        states=[ct.StateType(ct.TensorType(shape=(64, 4), dtype=np.float16), name="cache")],
        minimum_deployment_target=ct.target.iOS18,
    )
    loaded = load(model)
    state, other = loaded.make_state(), make_state(model)
    eager = Cache().eval()
    for _ in range(64):
        x = torch.randn(1, 4).half()
        expected = eager(x).numpy()
        np.testing.assert_array_equal(loaded({"x": x.numpy()}, state)["y"], expected)
    np.testing.assert_array_equal(state["cache"], eager.cache.numpy())
    assert not other["cache"].any()
    state["cache"] = np.zeros((64, 4))
    assert not loaded({"x": np.zeros((1, 4), np.float16)}, state)["y"].any()
    with pytest.raises(InputError, match="has state, and none was given"):
        loaded({"x": np.zeros((1, 4), np.float16)})
    with pytest.raises(InputError, match="wrong shape"):
        state["cache"] = np.zeros(3)


_COMPRESSIONS = {
    "palettize": lambda model: cto.coreml.palettize_weights(
        model,
        cto.coreml.OptimizationConfig(cto.coreml.OpPalettizerConfig(nbits=4, mode="uniform")),
    ),
    "linear": lambda model: cto.coreml.linear_quantize_weights(
        model,
        cto.coreml.OptimizationConfig(cto.coreml.OpLinearQuantizerConfig(mode="linear")),
    ),
    "int4_blocks": lambda model: cto.coreml.linear_quantize_weights(
        model,
        cto.coreml.OptimizationConfig(
            cto.coreml.OpLinearQuantizerConfig(
                mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=32
            )
        ),
    ),
    "prune": lambda model: cto.coreml.prune_weights(
        model,
        cto.coreml.OptimizationConfig(cto.coreml.OpMagnitudePrunerConfig(target_sparsity=0.6)),
    ),
}


@pytest.mark.parametrize("kind", _COMPRESSIONS)
@pytest.mark.parametrize("target", [ct.target.iOS16, ct.target.iOS18])
def test_compressed_weights_equal_their_decompression(kind: str, target: ct.target) -> None:
    if kind == "int4_blocks" and target == ct.target.iOS16:
        pytest.skip("blocks need iOS18")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64))
    x = torch.randn(4, 64)
    small = _COMPRESSIONS[kind](converted(module, x, minimum_deployment_target=target))
    used = {op.op_type for op in small._mil_program.functions["main"].operations}
    assert any(name.startswith("constexpr_") for name in used)
    plain = cto.coreml.decompress_weights(small)
    inputs = {"x0": x.numpy()}
    for a, b in zip(predict(small, inputs).values(), predict(plain, inputs).values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3)


def test_functions_are_run_by_name(tmp_path: Path) -> None:
    x = torch.ones(1, 8)
    paths = []
    for index, scale in enumerate((2.0, 3.0)):
        linear = nn.Linear(8, 8, bias=False)
        nn.init.constant_(linear.weight, scale)
        paths.append(str(tmp_path / f"{index}.mlpackage"))
        converted(linear, x, minimum_deployment_target=ct.target.iOS18).save(paths[-1])
    description = ct.utils.MultiFunctionDescriptor()
    description.add_function(paths[0], "main", "double")
    description.add_function(paths[1], "main", "triple")
    description.default_function_name = "double"
    both = str(tmp_path / "both.mlpackage")
    ct.utils.save_multifunction(description, both)
    inputs = {"x0": x.numpy()}
    for function, value in (("double", 16.0), ("triple", 24.0), ("main", 16.0)):
        output = next(iter(predict(both, inputs, function=function).values()))
        np.testing.assert_array_equal(output, np.full((1, 8), value))


def test_a_scalar_may_be_given_for_an_input_that_the_model_has_as_one() -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
            return x * by

    made = convert(Scaled(), (torch.ones(2), torch.tensor(3.0)))
    for by in (np.float32(2.0), np.array(2.0), torch.tensor(2.0), np.array([2.0])):
        assert predict(made, {"x": np.ones(2), "by": by})["output"].tolist() == [2.0, 2.0]
