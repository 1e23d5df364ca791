"""Weights that are used often in one call stay as they are stored, and are widened there."""

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb

from lowering.reference import load
from lowering.reference.kept import MIN_POSITIONS

TABLE = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float16)
ROWS = np.array([3, 60, 3], dtype=np.int32)


def converted(tied, tmp_path):
    spec = [mb.TensorSpec(shape=(3,), dtype=ct.converters.mil.mil.types.int32)]

    @mb.program(input_specs=spec, opset_version=ct.target.iOS17)
    def program(rows):
        table = mb.const(val=TABLE)
        found = mb.gather(x=table, indices=rows, axis=0, validate_indices=False)
        return mb.matmul(x=found, y=table, transpose_y=True) if tied else mb.exp(x=found)

    path = tmp_path / "table.mlpackage"
    ct.convert(program, minimum_deployment_target=ct.target.iOS17, skip_model_load=True).save(
        str(path)
    )
    return path


def constant(model, kind="gather", key="x"):
    (op,) = [step.op for step in model.program.body.steps if step.op.type == kind]
    return op.constants[key]


def test_a_table_is_not_decoded(tmp_path):
    for precision in ("fp16", "fp32", "strict"):
        model = load(converted(False, tmp_path), precision=precision)
        assert constant(model).dtype is torch.float16
        (found,) = model({"rows": ROWS}).values()
        wanted = np.exp(TABLE[ROWS].astype(np.float32))
        np.testing.assert_allclose(found.astype(np.float32), wanted, rtol=2e-3)


def test_a_table_with_other_uses_is(tmp_path):
    model = load(converted(True, tmp_path))
    assert constant(model).dtype is torch.float32
    (found,) = model({"rows": ROWS}).values()
    wanted = TABLE[ROWS].astype(np.float32) @ TABLE.astype(np.float32).T
    np.testing.assert_allclose(found.astype(np.float32), wanted, rtol=2e-2, atol=2e-2)


FILTERS = np.random.default_rng(1).standard_normal((16, 8, 3, 3)).astype(np.float16)


def convolved(size, tmp_path):
    spec = [mb.TensorSpec(shape=(1, 8, size, size), dtype=ct.converters.mil.mil.types.fp16)]

    @mb.program(input_specs=spec, opset_version=ct.target.iOS17)
    def program(x):
        return mb.conv(x=x, weight=FILTERS, pad_type="same")

    path = tmp_path / "conv.mlpackage"
    ct.convert(program, minimum_deployment_target=ct.target.iOS17, skip_model_load=True).save(
        str(path)
    )
    return path


@pytest.mark.parametrize("size, dtype", [(8, torch.float16), (6, torch.float32)])
@pytest.mark.parametrize("precision", ["fp16", "fp32", "strict"])
def test_filters_that_meet_many_positions_are_not_decoded(size, dtype, precision, tmp_path):
    model = load(convolved(size, tmp_path), precision=precision)
    assert constant(model, "conv", "weight").dtype is dtype
    assert (size * size >= MIN_POSITIONS) == (dtype is torch.float16)
    x = np.random.default_rng(2).standard_normal((1, 8, size, size)).astype(np.float16)
    (found,) = model({"x": x}).values()
    operands = torch.from_numpy(x).float(), torch.from_numpy(FILTERS).float()
    wanted = torch.nn.functional.conv2d(*operands, padding=1)
    np.testing.assert_allclose(found.astype(np.float32), wanted.numpy(), rtol=1e-2, atol=5e-2)
