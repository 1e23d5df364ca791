"""Findings of ``--watch``, intermediate values, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from frontend.source import Source
from lowering.cli.predict import predict as command
from lowering.reference import InputError, load, values_at
from lowering.reference.watch import Watch
from tests.lowering.reference.reference_models import converted


class Fragile(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grown = x * 300.0 * x.abs()
        return torch.tanh(grown) + torch.sqrt(x)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("watch") / "m.mlpackage"
    model = converted(Fragile(), torch.ones(1, 3))
    model.user_defined_metadata["com.ane-passes.sources"] = json.dumps(
        {
            name: {"module": "body", "line": f"model.py:{i}"}
            for i, name in enumerate(("mul", "sqrt"))
        }
    )
    model.save(str(path))
    return path


def _watched(package: Path, values: list[float], precision: str = "fp16") -> Watch:
    model = load(package, precision=precision)
    watch = Watch(lambda name: Source("m", name))
    inputs = {"x0": np.array([values], np.float32)}
    watch.inputs(inputs)
    model.run(inputs, observer=watch)
    return watch


def test_nothing_is_found_in_finite_values(package: Path) -> None:
    assert _watched(package, [1, 2, 3]).findings == []


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_overflow_is_told_from_infinity_with_its_range(package: Path, precision: str) -> None:
    watch = _watched(package, [1, 2, 40], precision)
    (finding,) = watch.origins
    assert (finding.problem, finding.type, finding.count) == ("fp16 overflow", "mul", 1)
    assert finding.high == pytest.approx(480000, rel=1e-3)
    assert finding.source == Source("m", finding.op)


def test_nan_is_reported_where_it_arises(package: Path) -> None:
    watch = _watched(package, [1, -2, 3])
    (finding,) = watch.origins
    assert (finding.problem, finding.type) == ("NaN", "sqrt")
    assert len(watch.findings) > 1  # what reads it is tainted, but no origin


def test_values_that_came_in_are_no_origin(package: Path) -> None:
    watch = _watched(package, [1, float("inf"), 3])
    assert watch.findings
    assert not watch.origins


def test_values_by_name(package: Path) -> None:
    model = load(package)
    names = [op.outputs[0].name for op in model.ops if op.type in ("sqrt", "tanh")]
    values = model.values({"x0": np.array([[1.0, 4.0, 9.0]])}, at=names)
    assert set(values) == set(names)
    np.testing.assert_array_equal(values[names[-1]], [[1, 2, 3]])
    with pytest.raises(InputError, match="no such value"):
        model.values({"x0": np.ones((1, 3))}, at=["nothing"])


def test_command(package: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    np.save(tmp_path / "x.npy", np.array([[1.0, 2.0, 3.0]], np.float32))
    out = tmp_path / "out"
    result = run(
        command,
        [str(package), "-i", f"x0={tmp_path / 'x.npy'}", "--json", "--output-dir", str(out)],
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    (name,) = report["outputs"]
    array = np.load(out / f"{name}.npy")
    assert report["outputs"][name]["shape"] == [1, 3]
    assert report["outputs"][name]["max"] == array.max()

    found = run(command, [str(package), "-i", "x0=-2", "--watch", "--json"])
    assert found.exit_code == 1
    assert [item["problem"] for item in json.loads(found.stdout)["findings"]] == ["NaN"]
    table = run(command, [str(package), "-i", "x0=random", "--watch", "--seed", "3"])
    again = run(command, [str(package), "--watch", "--seed", "3"])
    # The table; the line after it tells the time.
    assert table.stdout.splitlines()[:5] == again.stdout.splitlines()[:5]


@pytest.mark.parametrize("word", ["y=1", "x0", "x0=word", "x0=missing.npy", "x0=missing.png"])
def test_command_refuses_bad_words(package: Path, word: str) -> None:
    result = CliRunner().invoke(command, [str(package), "-i", word, "--json"])
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"] == "InputError"


def test_command_on_a_missing_package(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(tmp_path / "no.mlpackage")])
    assert result.exit_code == 2
    assert "there is no package at this path" in result.stderr


def test_ops_say_what_they_read(package: Path) -> None:
    model = load(package)
    defined = set(model.inputs)
    for op in model.ops:
        for names in op.inputs.values():
            computed = [n for n in names if n not in defined]
            # What is not computed is a constant, then the op has its value.
            assert not computed or any(key in op.constants for key in op.inputs)
        defined |= {output.name for output in op.outputs}
    assert ct.target  # the module stays imported for the fixtures


def test_probe_by_value_op_node_and_module(package: Path) -> None:
    model = load(package)
    (sqrt,) = [op for op in model.ops if op.type == "sqrt"]
    words = [sqrt.outputs[0].name, sqrt.name, "sqrt", "body"]
    values = values_at(package, {"x0": np.array([[1.0, 4.0, 9.0]])}, at=words)
    assert list(values) == list(dict.fromkeys(words))
    for word in words:
        np.testing.assert_array_equal(values[word], [[1, 2, 3]])
    with pytest.raises(InputError, match="nothing in the program is called 'nobody'"):
        values_at(package, {"x0": np.ones((1, 3))}, at=["nobody"])
