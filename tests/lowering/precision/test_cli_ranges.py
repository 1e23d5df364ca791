"""``ane-passes ranges``."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lowering.cli import main

MODELS = Path(__file__).parent / "harmed_models.py"


def call(*args):
    return CliRunner().invoke(main, ["ranges", *map(str, args)])


def test_table_and_exit_code_of_what_is_harmed():
    result = call(f"{MODELS}:bias")
    assert result.exit_code == 1
    assert "fp16-overflow" in result.output and "harmed_models.py:" in result.output
    assert "4,095 (assumed)" in result.output


def test_json_of_what_is_not_harmed(tmp_path):
    np.savez(tmp_path / "more.npz", inputs_0=np.full((2, 4), 100, np.float32))
    result = call(f"{MODELS}:fine", "--json", "--calibration", tmp_path / "more.npz")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["findings"] == [] and found["values"][-1]["high"] == 200
    assert found["calls"] == ["the example", "call 2"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--input-range", "positions=9"], "NAME=LOW:HIGH"),
        (["--input-range", "z=0:9"], "which is no input"),
        (["--calibration", __file__], "cannot read the inputs"),
    ],
)
def test_calls_that_cannot_be_read(options, says):
    result = call(f"{MODELS}:bias", *options)
    assert result.exit_code == 2 and says in result.output
