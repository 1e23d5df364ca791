"""Rewritten modules in front of stock coremltools, and of ExecuTorch where it is installed."""

import importlib.util

import pytest
import torch

from benchmarks.other_converters import MODELS, by_executorch, rows_of


@pytest.mark.parametrize("name", ["encoder", "pictures"])
def test_stock_coremltools_takes_a_rewritten_module(name, tmp_path):
    plain, rewritten = rows_of(name, tmp_path, with_executorch=False)
    assert plain.passed and rewritten.passed
    assert rewritten.transposes <= plain.transposes and rewritten.price <= plain.price
    if name == "encoder":
        assert rewritten.transposes < plain.transposes


@pytest.mark.skipif(importlib.util.find_spec("executorch") is None, reason="needs executorch")
@pytest.mark.parametrize("name", MODELS)
def test_executorch_takes_a_rewritten_module_whole(name, tmp_path):
    torch.manual_seed(0)
    model, args = MODELS[name]()
    package, left = by_executorch(model, args, tmp_path)
    assert package.suffix == ".mlpackage" and left == 0
