"""``predict`` on the command line: outputs that are no numbers are named without being asked."""

import json

import coremltools as ct
import numpy as np
import pytest
from click.testing import CliRunner
from coremltools.converters.mil import Builder as mb

from lowering.cli import main
from lowering.reference import ExecutionError, predict


def package(tmp_path, function):
    program = mb.program(input_specs=[mb.TensorSpec((1, 4))])(function)
    made = ct.convert(
        program,
        convert_to="mlprogram",
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    made.save(str(tmp_path / "net.mlpackage"))
    return tmp_path / "net.mlpackage"


@pytest.mark.parametrize(
    ("function", "key", "words"),
    [
        (lambda x: mb.log(x=mb.sub(x=0.0, y=mb.abs(x=x)), name="y"), "nan", "4 of 4 elements are"),
        (lambda x: mb.real_div(x=1.0, y=mb.sub(x=x, y=x), name="y"), "infinite", "are infinite"),
        (lambda x: mb.sqrt(x=mb.sub(x=-1.0, y=mb.abs(x=x)), name="y"), "nan", "are NaN"),
    ],
)  # fmt: skip
def test_outputs_that_are_no_numbers(tmp_path, function, key, words):
    path = package(tmp_path, function)
    result = CliRunner().invoke(main, ["predict", str(path)])
    assert result.exit_code == 0, result.output
    assert words in result.output and "--watch" in result.output
    report = json.loads(CliRunner().invoke(main, ["predict", str(path), "--json"]).stdout)
    assert report["outputs"]["y"][key] == 4


def test_finite_outputs_say_nothing(tmp_path):
    path = package(tmp_path, lambda x: mb.relu(x=x, name="y"))
    result = CliRunner().invoke(main, ["predict", str(path)])
    assert result.exit_code == 0 and "elements are" not in result.output


@pytest.mark.parametrize("reps", [(0, 1), (1, -1), (-2, 3)])
def test_tiles_less_than_once_are_named(tmp_path, reps):
    path = package(tmp_path, lambda x: mb.tile(x=x, reps=(7, 5), name="y"))
    file = path / "Data/com.apple.CoreML/model.mlmodel"
    spec = ct.proto.Model_pb2.Model()
    spec.ParseFromString(file.read_bytes())
    function = spec.mlProgram.functions["main"]
    for operation in function.block_specializations[function.opset].operations:
        if operation.type == "const":
            ints = operation.attributes["val"].immediateValue.tensor.ints.values
            if list(ints) == [7, 5]:
                ints[:] = reps
    file.write_bytes(spec.SerializeToString())
    with pytest.raises(ExecutionError, match="less than once"):
        predict(path, {"x": np.ones((1, 4), np.float32)})
