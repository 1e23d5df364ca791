"""Packages for generation with weights in fewer bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from frontend.errors import InputError
from lowering import compress
from lowering.generation import Generator, export_decoder
from lowering.generation.export import ExportReport
from lowering.generation.verifying import verify_decoder
from tests.lowering.generation.families import prompt, qwen3


def _weights(path: Path) -> int:
    return (path / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size


def _logits(path: Path) -> np.ndarray:
    generator = Generator(path)
    return generator.check(prompt(20))


@pytest.mark.parametrize(
    ("rung", "share", "correlation"),
    [("int8", 0.62, 0.98), ("pal6", 0.48, 0.97), ("int4-block", 0.40, 0.90)],
)
def test_functions_share_compressed_weights(
    exported: ExportReport, tmp_path: Path, rung: str, share: float, correlation: float
):
    made = compress(exported.path, rung, tmp_path / "small").package
    assert _weights(made) < share * _weights(exported.path)
    pair = np.corrcoef(_logits(exported.path).ravel(), _logits(made).ravel())
    assert correlation < pair[0, 1] < 1
    assert Generator(made).contract == exported.contract


@pytest.mark.parametrize("rung", ["int8", "pal6", "int4-block"])
def test_an_export_is_compressed_at_once_and_held_against_what_it_decodes(
    rung: str, tmp_path: Path
):
    small = qwen3(num_hidden_layers=1)
    report = export_decoder(small, tmp_path / "m", context=32, prefill=0, compress=rung)
    assert len(Generator(report.path).generate(prompt(3), 4)) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["m.mlpackage"]
    found = verify_decoder(report.path, small, steps=2)
    assert found.passed
    assert found.compression is not None
    assert len(found.compression.weights) > 6
    (lost,) = found.compression.lost
    assert lost.rounding < 0.5 * lost.weights  # most is what compression leaves out
    with torch.no_grad():
        small.get_parameter("model.layers.0.mlp.up_proj.weight").mul_(-1.0)
    other = verify_decoder(report.path, small, steps=2)
    assert not other.passed
    assert other.compression is not None
    assert any(weight.fault for weight in other.compression.weights)


def test_a_rung_that_there_is_not(model: nn.Module, tmp_path: Path):
    with pytest.raises(InputError, match="no rung 'int3'"):
        export_decoder(model, tmp_path / "m", context=32, compress="int3")
    assert list(tmp_path.iterdir()) == []
