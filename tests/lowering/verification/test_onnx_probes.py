"""Torch, ONNX Runtime and the package at the same nodes, and the file of results."""

import copy
import json

import pytest
import torch
from click.testing import CliRunner

import lowering
import passes
from benchmarks import smoke_torch, smoke_toy
from benchmarks.toy import toy
from frontend.errors import AnePassesError
from lowering.cli import main
from lowering.verification import onnx_probes
from lowering.verification.onnx_probes import missing_for_onnx, three_way
from lowering.verification.results_file import results_problems

needs_onnx = pytest.mark.skipif(bool(missing_for_onnx()), reason="the extra onnx is not installed")


@pytest.fixture(scope="module")
def packaged():
    model, inputs = toy()
    return lowering.convert(passes.optimize_for_ane(model, inputs), skip_model_load=True)


@needs_onnx
def test_three_sides_agree_and_a_fault_shows_on_its_side(packaged):
    model, inputs = toy()
    rows = three_way(packaged, model, inputs)
    assert len(rows) > 20
    assert all(row.onnx < 1e-5 and row.package < 5e-3 for row in rows)
    assert {row.source.module for row in rows} >= {"patches", "head", "encoder.layers.1.linear2"}
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        wrong.encoder.layers[1].linear2.weight[0] += 1
    rows = three_way(packaged, wrong, inputs)
    assert max(row.onnx for row in rows) < 1e-5
    first = next(row for row in rows if row.package > 2e-2)
    assert first.source.module == "encoder.layers.1.linear2"


@needs_onnx
def test_what_onnx_lacks_is_said():
    class Unknown(torch.nn.Module):
        def forward(self, x):
            return torch.ops.ane.nms(x, x[..., :2], 0.5, 3, True)[0]

    with pytest.raises(lowering.VerificationError, match="cannot write the program as ONNX"):
        three_way(None, Unknown(), (torch.rand(1, 6, 4),))


def test_without_onnx_it_is_asked_for(packaged, monkeypatch):
    monkeypatch.setattr(onnx_probes, "_NEEDED", ("no_such_package",))
    model, inputs = toy()
    with pytest.raises(lowering.VerificationError, match="not installed") as caught:
        three_way(packaged, model, inputs)
    assert "ane-passes[onnx]" in caught.value.details["next step"]
    assert all(row.onnx is None for row in three_way(packaged, model, inputs, onnx=False))


def test_skips_are_counted_in_the_last_line(monkeypatch, tmp_path):
    monkeypatch.setattr(smoke_toy, "missing_for_onnx", lambda: ["onnxruntime"])
    result = CliRunner().invoke(smoke_toy.main, ["-o", str(tmp_path / "results.json")])
    assert result.exit_code == 0, result.output
    assert "1 SKIPPED" in result.output.splitlines()[-1] and "SKIP torch" in result.output
    raw = json.loads((tmp_path / "results.json").read_text())
    assert results_problems(raw) == [] and raw["totals"] == {"pass": 1, "fail": 0, "skip": 1}


def test_a_diagnostic_writes_no_package(tmp_path):
    for name in ("toy.mlpackage", "toy.onnx"):
        result = CliRunner().invoke(smoke_toy.main, ["-o", str(tmp_path / name)])
        assert result.exit_code == 2 and ".json" in result.output
    assert list(tmp_path.iterdir()) == []


def test_smoke_torch_makes_a_real_package(tmp_path):
    result = CliRunner().invoke(smoke_torch.main, ["-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert lowering.predict(
        tmp_path / "out" / "toy.mlpackage", {"image": tmp_path / "out" / "picture.png"}
    )["label"]
    assert results_problems(json.loads((tmp_path / "out" / "results.json").read_text())) == []


def test_verify_writes_results_with_probes(packaged, tmp_path):
    package = lowering.save(packaged, tmp_path / "toy.mlpackage")
    output = tmp_path / "results.json"
    words = ["verify", str(package), "benchmarks.toy:toy", "--probes", "-o", str(output)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    raw = json.loads(output.read_text())
    assert results_problems(raw) == [] and len(raw["results"][0]["probes"]) > 20
    result = CliRunner().invoke(main, [*words[:3], "-o", str(tmp_path / "r.mlpackage")])
    assert result.exit_code == 2 and not (tmp_path / "r.mlpackage").exists()
    assert CliRunner().invoke(main, [*words[:3], "--onnx"]).exit_code == 2


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("schema",), 2, "schema is 2"),
        (("totals",), {"pass": 2, "fail": 0, "skip": 0}, "totals"),
        (("results", 0, "status"), "maybe", "status is 'maybe'"),
        (("results", 0, "status"), "skip", "gives no reason"),
        (("results", 0, "seconds"), "1", "seconds is str"),
        (("results", 0, "more"), 1, "not known"),
        (("results",), {}, "results is dict"),
    ],
)
def test_results_of_another_form(path, value, words):
    entry = {"name": "a", "status": "pass", "seconds": 1.0, "reason": "", "outputs": []}
    raw = {
        "schema": 1,
        "command": "x",
        "versions": {},
        "totals": {"pass": 1, "fail": 0, "skip": 0},
        "results": [{**entry, "probes": []}],
    }
    assert results_problems(raw) == []
    place = raw
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert any(words in problem for problem in results_problems(raw))
    assert issubclass(lowering.SaveError, AnePassesError)
