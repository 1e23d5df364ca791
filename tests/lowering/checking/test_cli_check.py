import json

import pytest
from click.testing import CliRunner

from lowering.cli import main

MODEL = """
import torch
from torch import nn
from torch.export import Dim

class Net(nn.Module):
    def forward(self, x):
        return torch.linalg.qr(x)[0]

class Overflows(nn.Module):
    def forward(self, x):
        return (x * 1e5).relu()

def missing():
    return Net(), (torch.ones(3, 3),)

def overflows():
    return Overflows(), (torch.ones(1, 3, 8, 8),)

def small():
    return nn.ReLU(), (torch.ones(1, 3, 8, 8),)

def dynamic():
    return nn.ReLU(), (torch.ones(1, 3),), {}, {"input": {0: Dim("batch", max=4)}}
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "checknet.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)

    def call(*args):
        return CliRunner().invoke(main, [str(arg) for arg in args])

    return call


@pytest.mark.parametrize(
    ("function", "gate", "code"),
    [
        ("missing", "fatal", 1),
        ("overflows", "fatal", 0),
        ("overflows", "wrong", 1),
        ("small", "wrong", 0),
        ("small", "off-ane", 1),  # predicted: so small a model stays on the CPU
    ],
)
def test_exit_codes_are_gates(run, function, gate, code):
    result = run("check", f"checknet.py:{function}", "--fail-on", gate)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output


def test_table(run):
    text = run("check", "checknet.py:missing").stdout
    assert "unsupported-op" in text and "linalg_qr" in text and "checknet.py:8" in text
    assert "cannot be converted as it is" in text and "ane-passes explain" in text


def test_json_is_one_document(run):
    result = run("check", "checknet.py:overflows", "--quick", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 0 and document["placement"] is None
    (finding,) = [f for f in document["findings"] if f["rule"] == "fp16-overflow"]
    assert finding["severity"] == "wrong" and finding["count"] == 1
    assert finding["places"][0]["line"].endswith("return (x * 1e5).relu()")


def test_dynamic_shapes_come_with_the_target(run):
    document = json.loads(run("check", "checknet.py:dynamic", "--json").stdout)
    assert "shape.symbolic" in {finding["rule"] for finding in document["findings"]}


def test_sizes_of_a_package(run):
    result = run("convert", "checknet.py:dynamic", "-o", "a.mlpackage", "--sizes", "batch=1,4")
    assert result.exit_code == 0, result.output
    wrong = run("convert", "checknet.py:dynamic", "-o", "b.mlpackage", "--sizes", "batch=1,9")
    assert wrong.exit_code == 2 and "found: 9" in wrong.output
    misspelled = run("convert", "checknet.py:dynamic", "-o", "b.mlpackage", "--sizes", "batch")
    assert misspelled.exit_code == 2 and "not of the form" in misspelled.output


def test_user_errors(run):
    assert run("check", "absent.py:net").exit_code == 2
    unknown = run("check", "checknet.py:small", "--chip", "M99")
    assert unknown.exit_code == 2 and "M99" in unknown.output


def test_errors_of_other_verbs_name_their_rule(run):
    result = run("convert", "checknet.py:missing", "-o", "a.mlpackage", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["rule"] == "unsupported-op"


def test_explain(run):
    text = run("explain", "value-in-python").stdout
    assert "What you can do" in text and "fatal" in text
    listed = json.loads(run("explain", "--json").stdout)
    assert {"unsupported-op", "dtype.int32_tensor"} <= {entry["id"] for entry in listed}
    assert run("explain").exit_code == 0
    assert run("explain", "nonsense").exit_code == 2
