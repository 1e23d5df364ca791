"""The zoo: its list, what a result means, and one model measured for real."""

import json
import os
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from benchmarks.zoo import measure
from benchmarks.zoo import run as zoo_run
from benchmarks.zoo.__main__ import main, worse
from benchmarks.zoo.catalog import FAMILIES, entries
from benchmarks.zoo.entry import Entry, calibrate_batch_norms
from benchmarks.zoo.outcome import outcome
from benchmarks.zoo.stock_side import stock_side
from lowering import convert
from lowering.verification import Original
from passes import optimize_for_ane

GOOD = {"passed": True, "rel_l2": 1e-6, "half": 1e-3, "allowed": 1e-4}
STOCK = {"trace": "RuntimeError: no", "export": "ok", "trace seconds": 1.0, "export seconds": 1.0}


def test_the_list_is_long_and_has_no_name_twice():
    assert len(entries()) == sum(len(members) for members in FAMILIES.values()) >= 100
    assert not [name for name in entries() if " " in name]


@pytest.mark.parametrize(
    "result, reached, reason",
    [
        ({"fp32": GOOD, "fp16": GOOD}, 4, ""),
        ({"fp32": GOOD, "fp16": {**GOOD, "passed": False}}, 3, "fp16: relative error 1e-06"),
        ({"failed": {"convert fp16": "no such op"}, "fp32": GOOD}, 2, "convert fp16: no such op"),
        ({"failed": {"verify fp32": "CRASH X: y"}, "fp16": GOOD}, 3, "verify fp32: CRASH X: y"),
        ({"failed": {"optimize": "two\n  lines"}}, 1, "optimize: two; lines"),
        ({"failed": {"build": "exit code 1"}}, 0, "build: exit code 1"),
    ],
)
def test_outcomes(result, reached, reason):
    found = outcome(result)
    assert (found.reached, found.verified) == (reached, reached == 4)
    assert found.reason.startswith(reason) and bool(found.reason) == bool(reason)


@pytest.mark.parametrize(
    "export, converts, right",
    [("ok", True, True), ("wrong: relative error 0.5", True, False), ("E: no", False, False)],
)
def test_stock_verdicts(export, converts, right):
    found = outcome({"fp32": GOOD, "fp16": GOOD, "stock": {**STOCK, "export": export}})
    assert (found.stock_converts, found.stock_right) == (converts, right)


def test_batch_norms_are_calibrated():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 2))
    x = torch.randn(4, 3, 8, 8) * 5 + 2
    calibrate_batch_norms(model.eval(), {"input": x})
    y = model[1](model[0](x))
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var((0, 2, 3)), torch.ones(8), atol=1e-3, rtol=0)


class Bias(nn.Module):
    def forward(self, x, keep):
        return torch.where(keep, x + 1, x)


class Baked(nn.Module):
    """Tracing keeps the branch that the example takes."""

    def forward(self, x):
        return x + 1 if x.sum() > 0 else x - 1


class Best(nn.Module):
    """One of two far apart, whichever is larger: rounding may choose the other."""

    def forward(self, x):
        return torch.where((x[:, :1] - x[:, 1:]) > 0, x + 10, x - 10)


def test_chance_is_judged_over_more_inputs():
    def draw(_):
        return {"x": torch.randn(64, 1) + torch.randn(64, 2) * 1e-3}

    model = Best().eval()
    optimized = optimize_for_ane(model, kwargs=draw(model))
    mlmodel = convert(optimized, skip_model_load=True)
    found = measure._over_more_inputs(
        mlmodel,
        Entry("best", lambda: model, draw, ()),
        model,
        lambda inputs: replace(Original.of(optimized, (), inputs), module=model),
    )
    assert found["inputs"] == 8
    assert found["half"] > 0.01  # some fall to the other side in torch's half precision too
    assert found["passed"] == (found["rel_l2"] <= found["allowed"])


def test_stock_packages_are_executed():
    x, keep = torch.randn(2, 3), torch.tensor([[True, False, True]] * 2)
    found = stock_side(Bias(), {"x": x, "keep": keep}, {"x": x * 2, "keep": ~keep})
    assert found["export"] == "ok"
    found = stock_side(Baked(), {"x": x.abs()}, {"x": -x.abs()})
    assert found["trace"].startswith("wrong") and "guard" in found["export"]


def test_one_model_is_measured_kept_and_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo_run, "CACHE", tmp_path)
    runner = CliRunner()
    first = runner.invoke(main, ["mlp", "--no-stock", "--json"])
    assert first.exit_code == 0, first.output
    found = json.loads(first.stdout)
    assert found["summary"]["verified"] == 1
    result = found["models"]["mlp"]
    assert 0 < result["fp32"]["rel_l2"] < 1e-5 < result["fp16"]["rel_l2"] < 2e-3
    kept = tmp_path / "mlp.json"
    written = os.stat(kept).st_mtime_ns
    again = runner.invoke(main, ["mlp", "--no-stock"])
    assert again.exit_code == 0 and os.stat(kept).st_mtime_ns == written
    kept.write_text(json.dumps({**result, "key": "of other sources", "failed": {"optimize": "x"}}))
    assert runner.invoke(main, ["mlp", "--no-stock", "--resume"]).exit_code == 1
    monkeypatch.setattr(
        zoo_run, "_in_a_process", lambda name, ours, stock, safe: {"fp32": GOOD, "fp16": GOOD}
    )
    assert runner.invoke(main, ["mlp", "--no-stock"]).exit_code == 0


def test_a_model_that_cannot_be_built_is_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo_run, "CACHE", tmp_path)
    monkeypatch.setattr(zoo_run.sys, "executable", "/bin/false")
    found = CliRunner().invoke(main, ["mlp", "--brief", "--no-stock"])
    assert found.exit_code == 1 and "mlp: build" in found.output


def test_unknown_models_are_refused():
    found = CliRunner().invoke(main, ["no-such-model"])
    assert found.exit_code == 2 and "no-such-model" in found.output


@pytest.mark.parametrize(
    ("fp16", "safe", "is_worse"),
    [((True, 1e-3), (True, 1.2e-3), False), ((True, 1e-3), (False, 4e-3), True),
     ((False, 4e-3), (False, 4.1e-3), False), ((False, 4e-3), (False, 8e-3), True),
     ((False, 4e-3), (True, 1e-3), False)],
)  # fmt: skip
def test_what_is_worse_in_safe_precision(fp16, safe, is_worse):
    both = (dict(zip(("passed", "rel_l2"), found, strict=True)) for found in (fp16, safe))
    results = {"model": dict(zip(("fp16", "safe"), both, strict=True)), "failed": {"failed": {}}}
    assert list(worse(results)) == (["model"] if is_worse else [])


def test_a_model_in_safe_precision(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo_run, "CACHE", tmp_path)
    found = CliRunner().invoke(main, ["mlp", "--no-stock", "--safe", "--json"])
    assert found.exit_code == 0, found.output
    result = json.loads(found.stdout)["models"]["mlp"]
    assert (result["safe"]["pins"], result["safe"]["price"]) == (0, 1.0)
    assert result["safe"]["rel_l2"] == result["fp16"]["rel_l2"]
