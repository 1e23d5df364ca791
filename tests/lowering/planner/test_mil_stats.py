"""Counts and bytes of a program that can be reckoned by hand."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types

from lowering.package.saving import save
from lowering.planner.mil_stats import MilStats, mil_stats


@pytest.fixture(scope="module")
def model():
    @mb.program(
        input_specs=[mb.TensorSpec((1, 4, 1, 10), types.fp16)], opset_version=ct.target.iOS17
    )
    def program(x):
        y = mb.conv(x=x, weight=np.ones((8, 4, 1, 1), np.float16))
        z = mb.transpose(x=y, perm=[0, 3, 1, 2])
        return mb.reshape(x=z, shape=[10, 8])

    return ct.convert(program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS17)


def test_counts_and_bytes(model):
    found = mil_stats(model)
    assert found.by_type == {"conv": 1, "transpose": 1, "reshape": 1}
    assert (found.ops, found.not_rank4, found.count("conv"), found.count("matmul")) == (3, 1, 1, 0)
    assert found.layout()["transpose"] == 1
    # 80 fp16 numbers three times; rows of 10, 1 and 8 numbers are stored as 32.
    assert found.activation_bytes == 3 * 160
    assert found.padded_bytes == 8 * 64 + 80 * 64 + 10 * 64
    assert found.largest_bytes == 160


def test_a_package_counts_like_the_model_it_was_saved_from(model, tmp_path):
    assert mil_stats(str(save(model, tmp_path / "a.mlpackage"))) == mil_stats(model)


def test_json_there_and_back(model):
    assert MilStats.from_json(mil_stats(model).to_json()) == mil_stats(model)
