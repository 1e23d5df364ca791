"""``ane-passes plan`` as a user types it."""

from __future__ import annotations

import json
import sys

import coremltools as ct
import pytest
from click.testing import CliRunner

from benchmarks.planner_accuracy import encoder_program
from lowering.cli import main
from lowering.cli.plan import plan as command


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "encoder.mlpackage"
    model = ct.convert(
        encoder_program(1),
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS17,
        skip_model_load=True,
    )
    model.save(str(path))
    return path


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_table(package):
    result = run(package, "--top", 3)
    assert result.exit_code == 0, result.output
    for text in ("encoder.mlpackage on M4", "operators on the ANE", "gather.index_dtype", "3 most"):
        assert text in result.output
    assert "predicted" in result.output
    assert "moving these" in result.output


def test_json_is_one_document(package):
    result = run(package, "--json", "--chip", "a17 pro")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["target"] == "A17 Pro"
    assert document["kind"] == "predicted"
    assert "comparison" not in document


def test_planned_beside_predicted(package, tmp_path):
    document = json.loads(run(package, "--json").stdout)
    operations = [
        {
            "name": op["outputs"][0],
            "operator": f"ios17.{op['op_type']}",
            "outputs": op["outputs"],
            "preferred": "cpu",
            "supported": ["cpu"],
            "cost": None,
        }
        for op in document["ops"]
    ]
    core_ml = {
        "format": 1,
        "system": {"os": "macOS 26"},
        "compute_units": "CPU_AND_NE",
        "function": "main",
        "operations": operations,
    }
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(core_ml))
    result = run(package, "--planned", file)
    assert result.exit_code == 0, result.output
    assert "predicted ane" in result.output
    assert "planned on macOS 26" in result.output
    matrix = json.loads(run(package, "--planned", file, "--json").stdout)["comparison"]
    counts = {(e["planned"], e["predicted"]): e["count"] for e in matrix["placement"]}
    on_ane = sum(op["device"] == "ane" for op in document["ops"])
    assert counts["cpu", "ane"] == on_ane


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac measures")
def test_observing_is_skipped_with_a_message(package):
    result = run(package, "--observe", 2)
    assert result.exit_code == 0
    assert "observed: skipped: times can only be observed on a Mac" in result.output
    assert json.loads(run(package, "--observe", 2, "--json").stdout)["observed"]["skipped"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("missing.mlpackage",),
        ("PACKAGE", "--chip", "M0"),
        ("PACKAGE", "--planned", "missing.json"),
        ("PACKAGE", "--compute-units", "CPU_AND_GPU"),
        ("PACKAGE", "--top", "0"),
        (),
    ],
)
def test_user_errors_exit_with_two(arguments, package):
    given = [str(package) if argument == "PACKAGE" else argument for argument in arguments]
    result = run(*given)
    assert result.exit_code == 2
    assert "Error" in result.output


def test_errors_are_json_when_asked(tmp_path):
    result = run(tmp_path / "missing.mlpackage", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"] == "PackageError"


def test_old_options_warn(package):
    result = CliRunner().invoke(main, ["plan", str(package), "--json", "--target", "M1"])
    assert result.exit_code == 0, result.output
    assert "--target is called --chip now" in result.stderr
    assert json.loads(result.stdout)["target"] == "M1"
    assert "--target" not in CliRunner().invoke(main, ["plan", "--help"]).output
    units = CliRunner().invoke(
        main, ["plan", str(package), "--json", "--compute-units", "CPU_ONLY"]
    )
    assert json.loads(units.stdout)["compute_units"] == "CPU_ONLY"
