"""Packages that cannot be read or run: one clear error each."""

from __future__ import annotations

import shutil
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

from lowering.reference import ExecutionError, PackageError, UnknownOpsError, load, predict
from tests.lowering.reference.reference_models import converted, save_spec

MODEL = Path("Data") / "com.apple.CoreML" / "model.mlmodel"
WEIGHTS = Path("Data") / "com.apple.CoreML" / "weights" / "weight.bin"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("package") / "m.mlpackage"
    torch.manual_seed(0)
    converted(nn.Sequential(nn.Linear(64, 32), nn.ReLU()), torch.ones(1, 64)).save(str(path))
    return path


@pytest.fixture
def package(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "m.mlpackage"))


def test_the_package_is_good(package: Path) -> None:
    assert predict(package, {"x0": np.ones((1, 64))})


def _remove(relative: Path):
    return lambda package: (package / relative).unlink()


def _cut(relative: Path, keep: float):
    def change(package: Path) -> None:
        data = (package / relative).read_bytes()
        (package / relative).write_bytes(data[: int(len(data) * keep)])

    return change


def _garble(relative: Path, start: int, data: bytes):
    def change(package: Path) -> None:
        file = package / relative
        content = bytearray(file.read_bytes())
        content[start : start + len(data)] = data
        file.write_bytes(content)

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (shutil.rmtree, "there is no package at this path"),
        (_remove(Path("Manifest.json")), "no manifest"),
        (_cut(Path("Manifest.json"), 0.5), "manifest is corrupt"),
        (_remove(MODEL), "model file is missing"),
        (_cut(MODEL, 0.6), "model file is corrupt or truncated"),
        (_garble(MODEL, 0, b"\xff" * 64), "corrupt or truncated|not an ML Program"),
        (_remove(WEIGHTS), "weights file is missing"),
        (_cut(WEIGHTS, 0), "truncated"),
        (_cut(WEIGHTS, 0.5), "corrupt or truncated"),
        (_garble(WEIGHTS, 4, b"\x07"), "unknown version"),
        (_garble(WEIGHTS, 64, b"\x00\x00"), "sentinel"),
        (_garble(WEIGHTS, 68, b"\x04"), "type code"),
        (_garble(WEIGHTS, 72, b"\x01"), "bytes do not hold"),
    ],
)
def test_corruption_is_named(package: Path, change, text: str) -> None:
    change(package)
    with pytest.raises(PackageError, match=text):
        load(package)


@pytest.mark.parametrize("keep", np.linspace(0.01, 0.99, 25))
@pytest.mark.parametrize("file", [MODEL, WEIGHTS])
def test_every_truncation_is_an_error(package: Path, file: Path, keep: float) -> None:
    _cut(file, keep)(package)
    with pytest.raises(PackageError):
        load(package)


def test_unknown_ops_are_listed_at_once(package: Path) -> None:
    def change(spec) -> None:
        function = spec.mlProgram.functions["main"]
        for operation in function.block_specializations[function.opset].operations:
            if operation.type in ("linear", "relu"):
                operation.type = f"new_{operation.type}"

    save_spec(package, change)
    with pytest.raises(UnknownOpsError, match=r"new_linear \(x1\), new_relu \(x1\)"):
        load(package)


def _first(spec, op_type: str):
    function = spec.mlProgram.functions["main"]
    operations = function.block_specializations[function.opset].operations
    return next(operation for operation in operations if operation.type == op_type)


def test_malformed_programs(package: Path) -> None:
    save_spec(package, lambda spec: _first(spec, "linear").inputs.pop("weight"))
    with pytest.raises(PackageError, match=r"missing weight"):
        load(package)


def test_undefined_values(package: Path) -> None:
    def change(spec) -> None:
        _first(spec, "relu").inputs["x"].arguments[0].name = "nowhere"

    save_spec(package, change)
    with pytest.raises(PackageError, match="'nowhere' is used but not defined"):
        load(package)


def test_an_op_that_fails_is_named(package: Path) -> None:
    def change(spec) -> None:
        spec.description.input[0].type.multiArrayType.shape[:] = [1, 63]

    save_spec(package, change)
    with pytest.raises(ExecutionError, match=r"linear[\s\S]*\(1, 63\)"):
        predict(package, {"x0": np.ones((1, 63))})


def test_other_things_are_refused(tmp_path: Path, package: Path) -> None:
    network = ct.convert(
        torch.jit.trace(nn.ReLU(), torch.ones(1, 2)),
        inputs=[ct.TensorType("x", (1, 2))],
        convert_to="neuralnetwork",
    )
    with pytest.raises(PackageError, match="not an ML Program"):
        load(network)
    network.save(str(tmp_path / "n.mlmodel"))
    with pytest.raises(PackageError, match="but a neural network"):
        load(tmp_path / "n.mlmodel")
    with pytest.raises(PackageError, match="this is not a package"):
        load(nn.ReLU())
    with pytest.raises(PackageError, match="no function 'other'"):
        load(package, function="other")
