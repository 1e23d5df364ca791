import json
from collections import defaultdict

import pytest
import torch
from click.testing import CliRunner

from lowering.cli import main

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)
    def forward(self, x, scale=None):
        y = self.b(torch.relu(self.a(x)))
        return y if scale is None else y * scale

def net():
    torch.manual_seed(0)
    return Net(), (torch.randn(1, 6, 8),)

def with_kwargs():
    return Net(), (torch.randn(1, 6, 8),), {"scale": torch.ones(1)}

def needs(x):
    return x

def broken():
    raise ValueError("no weights here")

def wrong():
    return 3
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "clinet.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)

    def call(*args):
        return CliRunner().invoke(main, [str(arg) for arg in args])

    return call


def test_convert_json(run, tmp_path):
    result = run("convert", "clinet.py:net", "-o", "net.mlpackage", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["package"] == str(tmp_path / "net.mlpackage")
    assert report["inputs"] == [{"name": "x", "type": "float16", "shape": [1, 6, 8]}]
    assert report["mil_ops"]["conv"] == 2
    assert any(entry["name"] == "linear_to_conv1x1" for entry in report["passes"])
    assert (tmp_path / "net.mlpackage" / "Manifest.json").is_file()


def test_convert_table_and_options(run):
    result = run(
        "convert", "clinet:with_kwargs", "-o", "net.mlpackage",
        "--no-optimize", "--precision", "float32", "--deployment-target", "iOS18",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "2 linear" in result.stdout and "float32" in result.stdout
    assert "scale" in result.stdout and "saved" in result.stdout


def test_optimize_saves_a_program_that_convert_takes(run, tmp_path):
    result = run("optimize", "clinet.py:net", "-o", "net.pt2", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    conv = next(entry for entry in report["passes"] if entry["name"] == "linear_to_conv1x1")
    assert conv["rewrites"] == 2
    program = torch.export.load(tmp_path / "net.pt2")
    assert program.module()(torch.randn(1, 6, 8))[0].shape == (1, 6, 4)
    result = run("convert", "net.pt2", "--no-optimize", "-o", "again.mlpackage", "--json")
    assert json.loads(result.stdout)["mil_ops"]["conv"] == 2


def test_optimize_table(run):
    result = run("optimize", "clinet.py:net")
    assert result.exit_code == 0
    assert "linear_to_conv1x1" in result.stdout and "rewrites" in result.stdout


ATTENDS = """
import torch

class Attends(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)

def heads():
    return Attends(), (torch.randn(1, 2, 8, 4),)
"""


@pytest.mark.parametrize(("chip", "said"), [("M4", "predicted"), ("M6", "no measured program")])
def test_a_chip_chooses_the_form_of_attention(run, tmp_path, chip, said):
    (tmp_path / "attends.py").write_text(ATTENDS)
    result = run("optimize", "attends.py:heads", "--for-chip", chip, "--json")
    assert result.exit_code == 0, result.output
    notes = [note for entry in json.loads(result.stdout)["passes"] for note in entry["notes"]]
    assert any("8 x 8 tokens" in note and said in note for note in notes)


def test_a_chip_that_is_not_known_is_refused_before_any_work(run, tmp_path):
    (tmp_path / "attends.py").write_text(ATTENDS)
    result = run("convert", "attends.py:heads", "-o", "net.mlpackage", "--for-chip", "M99")
    assert result.exit_code == 2
    assert "is not a chip the planner knows" in result.output
    assert not (tmp_path / "net.mlpackage").exists()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("clinet.py:needs", "must take no arguments"),
        ("clinet.py:broken", "ValueError: no weights here"),
        ("clinet.py:wrong", "returned int"),
        ("clinet.py:absent", "has no function 'absent'"),
        ("absent.py:net", "no such file"),
        ("absent_module:net", "no module 'absent_module'"),
        ("absent.pt2", "no such file"),
        ("nonsense", "MODEL cannot be read"),
    ],
)
def test_bad_targets_are_one_message(run, tmp_path, target, message):
    before = sorted(tmp_path.iterdir())
    result = run("convert", target, "-o", "out.mlpackage")
    assert result.exit_code == 2
    assert message in result.stderr and "Traceback" not in result.output
    as_json = run("convert", target, "-o", "out.mlpackage", "--json")
    assert as_json.exit_code == 2
    assert message.split(":")[-1].strip() in json.dumps(json.loads(as_json.stdout))
    left = [path for path in tmp_path.iterdir() if path.name != "__pycache__"]
    assert sorted(left) == before


def test_a_damaged_program_file(run, tmp_path):
    (tmp_path / "bad.pt2").write_bytes(b"not a program")
    result = run("convert", "bad.pt2", "-o", "out.mlpackage")
    assert result.exit_code == 2 and "written by torch.export.save" in result.stderr


@pytest.mark.parametrize(
    ("name", "what", "hint"),
    [
        ("net.onnx", "an ONNX model", "builds the model in PyTorch"),
        ("net.pt", "a TorchScript program", "builds the model in PyTorch"),
        ("weights.pth", "a checkpoint of torch.save", "builds the model in PyTorch"),
        ("net.mlpackage", "a Core ML package", "the model that the package was made from"),
        ("model.py", "Python source", "FILE.py:FUNCTION"),
        ("net.tflite", "a TensorFlow Lite model", "builds the model in PyTorch"),
    ],
)
def test_targets_of_other_kinds_are_named(run, tmp_path, name, what, hint):
    if name == "net.pt":
        torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / name)
    elif name == "weights.pth":
        torch.save({"w": torch.ones(1)}, tmp_path / name)
    elif name == "net.mlpackage":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(b"\x08\x07")
    result = run("convert", name, "-o", "out.mlpackage")
    assert result.exit_code == 2
    assert f"MODEL is {what}" in result.stderr and hint in result.stderr


def test_a_program_that_asks_for_code_needs_trust(run, tmp_path):
    parts = defaultdict(list, {"a": [torch.ones(1, 4)]})  # a class that torch pickles

    class Sum(torch.nn.Module):
        def forward(self, parts):
            return parts["a"][0] + 1

    torch.export.save(torch.export.export(Sum(), (parts,)), tmp_path / "net.pt2")
    result = run("optimize", "net.pt2")
    assert result.exit_code == 2
    assert "collections.defaultdict" in result.stderr and "--trust" in result.stderr
    result = run("optimize", "net.pt2", "--trust")
    assert result.exit_code == 0, result.output


def test_help_teaches(run):
    for verb in ("convert", "optimize"):
        text = run(verb, "--help").stdout
        assert "Examples:" in text and "model.py:tiny" in text and "Exit codes" in text
