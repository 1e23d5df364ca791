"""``ane-passes report`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lowering.cli.report import report as command
from tests.lowering.reporting.ablations import ablation

MODEL = f"{Path(__file__).with_name('report_models.py')}:encoder"


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_a_page_with_the_original(package, tmp_path):
    path = tmp_path / "out.html"
    result = run(package, MODEL, "-o", path, "--chip", "a17 pro")
    assert result.exit_code == 0, result.output
    assert f"wrote {path}" in result.output
    text = path.read_text()
    assert "encoder.mlpackage on A17 Pro" in text and 'id="accuracy"' in text
    assert list(tmp_path.iterdir()) == [path]


def test_the_page_is_named_after_the_package(package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(package, "--json")
    assert json.loads(result.stdout)["package"]["name"] == "encoder.mlpackage"
    assert list(tmp_path.iterdir()) == []
    assert run(package).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.html"]


@pytest.mark.parametrize(
    ("form", "start"),
    [("md", "# encoder"), ("csv", "#,operator"), ("json", "{"), ("graph-json", '{\n "label"')],
)
def test_texts_go_to_stdout(package, form, start):
    result = run(package, "--format", form)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(start)


@pytest.mark.parametrize(("name", "start"), [("a.md", "# "), ("a.csv", "#,"), ("a.json", "{")])
def test_the_suffix_says_the_format(package, tmp_path, name, start):
    path = tmp_path / name
    result = run(package, "-o", path, "--json")
    assert result.exit_code == 0, result.output
    assert path.read_text().startswith(start)
    document = json.loads(result.stdout)
    assert document["report"] == str(path) and document["bytes"] == path.stat().st_size


@pytest.mark.parametrize(
    "arguments",
    [
        ("missing.mlpackage",),
        ("PACKAGE", "missing.py:model"),
        ("PACKAGE", "--chip", "M0"),
        ("PACKAGE", "--ablation", "missing.json"),
        ("PACKAGE", "-o", "missing/report.html"),
        ("PACKAGE", "--format", "pdf"),
        (),
    ],
)
def test_user_errors_exit_with_two(arguments, package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [str(package) if argument == "PACKAGE" else argument for argument in arguments]
    result = run(*given)
    assert result.exit_code == 2, result.output
    assert "Error" in result.output and "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_errors_are_json_when_asked(tmp_path):
    result = run(tmp_path / "missing.mlpackage", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"] == "PackageError"


def test_inputs_from_a_file(package, tmp_path):
    path = tmp_path / "inputs.npz"
    np.savez(path, ids=np.zeros((1, 128), np.int64))
    errors = []
    for more in ((), ("--inputs", path)):
        result = run(package, MODEL, "--format", "json", *more)
        assert result.exit_code == 0, result.output
        errors.append(json.loads(result.stdout)["accuracy"]["outputs"]["outputs"][0]["rel_l2"])
    assert errors[0] != errors[1]
    assert run(package, "--inputs", path).exit_code == 2  # there is nothing to give them to
    path.write_text("no archive")
    assert run(package, MODEL, "--inputs", path).exit_code == 2


def test_ablations_alone(tmp_path):
    given, path = tmp_path / "ablation.json", tmp_path / "page.html"
    given.write_text(json.dumps([ablation("a").to_json(), ablation("b").to_json()]))
    result = run("--ablation", given, "-o", path)
    assert result.exit_code == 0, result.output
    assert "Ablation of the passes" in path.read_text()
    assert run("--ablation", given, "--format", "md").exit_code == 2


def test_the_ablation_of_the_target_is_chosen(package, tmp_path):
    given = tmp_path / "ablation.json"
    given.write_text(json.dumps([ablation("other").to_json(), ablation("encoder").to_json()]))
    result = run(package, MODEL, "--ablation", given, "--format", "json")
    assert json.loads(result.stdout)["ablation"]["model"] == "encoder"
    result = run(package, "--ablation", given, "--format", "json")
    assert result.exit_code == 2 and "other, encoder" in result.output


def test_an_ablation_of_nothing_is_refused(package, tmp_path):
    path = tmp_path / "ablation.json"
    path.write_text("[]")
    result = run(package, "--ablation", path)
    assert result.exit_code == 2 and "Error" in result.output
