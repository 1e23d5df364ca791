"""Weights that coremltools.optimize.torch compressed: kept through the default passes, exactly."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.optimize.torch.palettization import (
    PostTrainingPalettizer,
    PostTrainingPalettizerConfig,
)
from coremltools.optimize.torch.pruning import MagnitudePruner, MagnitudePrunerConfig
from coremltools.optimize.torch.quantization import (
    PostTrainingQuantizer,
    PostTrainingQuantizerConfig,
)
from torch import nn

import passes
from frontend.encoding import DenseWeightWarning
from lowering import convert, predict, save, verify

IOS17, IOS18 = ct.target.iOS17, ct.target.iOS18


class Net(nn.Module):
    """A convolution and a linear, each on the road that the passes have for it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 16, 3)
        self.linear = nn.Linear(16, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.conv(x).relu().mean((2, 3)))


X = torch.randn(1, 8, 6, 6)


def palettized(model: nn.Module, **options: object) -> nn.Module:
    config = PostTrainingPalettizerConfig.from_dict({"global_config": options})
    return PostTrainingPalettizer(model.eval(), config).compress(inplace=True)


def quantized(model: nn.Module, **options: object) -> nn.Module:
    config = PostTrainingQuantizerConfig.from_dict({"global_config": options})
    return PostTrainingQuantizer(model.eval(), config).compress(inplace=True)


def pruned(model: nn.Module, sparsity: float = 0.75) -> nn.Module:
    config = MagnitudePrunerConfig.from_dict({"global_config": {"target_sparsity": sparsity}})
    pruner = MagnitudePruner(model, config)
    pruner.prepare(inplace=True)
    pruner.step()
    model = pruner.finalize(inplace=True)
    for value in model.parameters():  # what is left of the pruner copies no others
        value.requires_grad_(False)
    return model


Made = Callable[[], nn.Module]
GROUPS = {"granularity": "per_grouped_channel", "group_size": 4}
PALETTES: Mapping[str, Made] = {
    "palette": lambda: palettized(Net(), n_bits=4),
    "2 bits": lambda: palettized(Net(), n_bits=2),
    "groups": lambda: palettized(Net(), n_bits=2, **GROUPS),
    "groups of inputs": lambda: palettized(Net(), n_bits=2, channel_axis=1, **GROUPS),
    "scaled": lambda: palettized(Net(), n_bits=2, enable_per_channel_scale=True, **GROUPS),
    "vectors": lambda: palettized(Net(), n_bits=2, cluster_dim=2),
    "vectors of groups": lambda: palettized(Net(), n_bits=1, cluster_dim=2, **GROUPS),
    "integer table": lambda: palettized(Net(), n_bits=4, lut_dtype=torch.int8),
}
INTEGERS: Mapping[str, Made] = {
    "int8": lambda: quantized(Net(), weight_dtype="int8"),
    "uint8": lambda: quantized(Net(), weight_dtype="uint8", quantization_scheme="affine"),
    "int4": lambda: quantized(Net(), weight_dtype="int4"),
    "one scale": lambda: quantized(Net(), weight_dtype="int8", granularity="per_tensor"),
}
BLOCKS: Mapping[str, Made] = {
    "blocks": lambda: quantized(Net(), weight_dtype="int4", granularity="per_block", block_size=4),
}
SPARSE: Mapping[str, Made] = {"pruned": lambda: pruned(Net())}
JOINT: Mapping[str, Made] = {
    "pruned palette": lambda: palettized(pruned(Net()), n_bits=2),
    "pruned int8": lambda: quantized(pruned(Net()), weight_dtype="int8"),
}


def lowered(model: nn.Module, target: ct.target, **options) -> ct.models.MLModel:
    optimized = passes.optimize_for_ane(model, (X,))
    return convert(optimized, minimum_deployment_target=target, skip_model_load=True, **options)


def decoded(package: ct.models.MLModel) -> dict[str, np.ndarray]:
    """Weights that ``constexpr`` operators make, by name, as coremltools itself decodes them."""
    (function,) = package._mil_program.functions.values()
    return {
        output.name: op.materialized_val_inference()
        for op in function.operations
        if op.op_type.startswith("constexpr") and "sparse" not in op.outputs[0].name
        for output in op.outputs[:1]
        if not any(user.op_type.startswith("constexpr") for user in output.child_ops)
    }


def assert_equal_weights(found: Mapping[str, np.ndarray], expected: list[torch.Tensor]) -> None:
    assert len(found) == len(expected)
    for values, weight in zip(found.values(), expected, strict=True):
        assert values.dtype == weight.numpy().dtype
        assert np.array_equal(values.reshape(weight.shape), weight.numpy())


def weights(model: ct.models.MLModel) -> list[torch.Tensor]:
    return [model.conv.weight.detach(), model.linear.weight.detach()]


def with_half_scales(model: ct.models.MLModel) -> list[torch.Tensor]:
    """The weights that torch's integers give with scales rounded to half."""
    found = []
    for module in (model.conv, model.linear):
        scale = getattr(module, "_COREML_/weight/quantization_scale")
        for axis, size in enumerate(module.weight.shape[: scale.ndim]):
            if scale.shape[axis] > 1:
                scale = scale.repeat_interleave(size // scale.shape[axis], axis)
        scale = scale.reshape(*scale.shape, *[1] * (module.weight.ndim - scale.ndim))
        steps = torch.round(module.weight.detach() / scale)
        found.append((steps * scale.half().float()).half())
    return found


@pytest.mark.parametrize("name", [*PALETTES, *SPARSE])
def test_palettes_and_zeros_are_the_values_that_torch_computes_with(name: str) -> None:
    model = {**PALETTES, **SPARSE}[name]()
    package = lowered(model, IOS18)
    assert_equal_weights(decoded(package), [weight.half() for weight in weights(model)])
    expected = model(X).detach().numpy()
    np.testing.assert_allclose(predict(package, {"x": X})["output"], expected, atol=2e-3)


@pytest.mark.parametrize("name", [*INTEGERS, *BLOCKS])
def test_integers_are_torch_s_and_their_scale_is_rounded(name: str) -> None:
    model = {**INTEGERS, **BLOCKS}[name]()
    assert_equal_weights(decoded(lowered(model, IOS18)), with_half_scales(model))


@pytest.mark.parametrize("name", ["groups", "int8", "uint8", "blocks"])
def test_a_float32_package_has_torch_s_values(name: str) -> None:
    model = {**PALETTES, **INTEGERS, **BLOCKS}[name]()
    package = lowered(model, IOS18, compute_precision=ct.precision.FLOAT32)
    assert_equal_weights(decoded(package), weights(model))


@pytest.mark.parametrize("name", JOINT)
def test_sparse_weights_are_palettes_or_integers_as_well(name: str) -> None:
    model = JOINT[name]()
    package = lowered(model, IOS18, compute_precision=ct.precision.FLOAT32)
    kinds = {op.op_type for op in package._mil_program.functions["main"].operations}
    assert "constexpr_sparse_to_dense" in kinds
    assert kinds & {"constexpr_lut_to_sparse", "constexpr_sparse_blockwise_shift_scale"}
    expected = model(X).detach().numpy()
    found = predict(package, {"x": X})["output"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["palette", "groups", "int8", "uint8", "pruned"])
def test_before_ios_18_there_are_fewer_forms(name: str) -> None:
    model = {**PALETTES, **INTEGERS, **SPARSE}[name]()
    found = decoded(lowered(model, IOS17))
    integers = name in INTEGERS
    expected = with_half_scales(model) if integers else [w.half() for w in weights(model)]
    assert_equal_weights(found, expected)


@pytest.mark.parametrize(
    ("name", "why"), [("blocks", "scales for blocks of several axes"), ("vectors", "of vectors")]
)
def test_what_a_system_cannot_hold_is_said(name: str, why: str) -> None:
    model = {**BLOCKS, **PALETTES}[name]()
    with pytest.warns(DenseWeightWarning, match=rf"conv\.weight: .*{why}; convert with .*iOS18"):
        package = lowered(model, IOS17)
    assert not decoded(package)


def test_a_package_of_compressed_weights_is_verified(tmp_path: Path) -> None:
    model = pruned(Net()).requires_grad_(True)
    assert verify(save(lowered(model, IOS18), tmp_path / "net.mlpackage"), model, (X,))


def test_an_encoding_is_saved_with_the_program() -> None:
    model = PALETTES["groups"]()
    file = io.BytesIO()
    torch.export.save(passes.optimize_for_ane(model, (X,)).program, file)
    file.seek(0)
    program = torch.export.load(file)
    package = convert(program, minimum_deployment_target=IOS18, skip_model_load=True)
    assert_equal_weights(decoded(package), [weight.half() for weight in weights(model)])
