"""The ablation of the five models, tried on a small one; and the prices of an encoder."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from benchmarks import ablation, encoder_price
from lowering.ablation.engines import InProcess
from lowering.ablation.result import Ablation


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x))


@pytest.fixture
def small(monkeypatch):
    def built() -> tuple[nn.Module, dict[str, torch.Tensor]]:
        return Block().eval(), {"x": torch.randn(1, 4, 8)}

    monkeypatch.setitem(ablation.MODELS, "convnext-4L", built)
    monkeypatch.setattr("lowering.ablation.engines.LocalPool", lambda jobs: InProcess())


def test_tables_and_reports(small, tmp_path):
    options = ["--only", "convnext-4L", "--cache", str(tmp_path / "cache")]
    out = tmp_path / "out"
    result = CliRunner().invoke(ablation.main, [*options, "--output", str(out)])
    assert result.exit_code == 0, result.output
    assert "predicted" in result.output and "convnext-4L" in result.output
    found = Ablation.from_json(json.loads((out / "convnext-4L.json").read_text()))
    assert found.variant("without linear_to_conv1x1").figures.mil.count("linear") == 1
    rows = list(csv.DictReader((out / "ablation.csv").open()))
    assert [row["variant"] for row in rows] == [variant.name for variant in found.variants]
    assert "| default |" in (out / "ablation.md").read_text()
    assert "convnext-4L" in (out / "convnext-4L.html").read_text()

    short = CliRunner().invoke(ablation.main, [*options, "--brief", "--output", str(out / "no")])
    assert short.exit_code == 0 and not (out / "no").exists()
    assert short.output.splitlines()[:2] == result.output.splitlines()[:2]


@pytest.mark.parametrize("name", sorted(ablation.MODELS))
def test_every_model_runs(name):
    model, inputs = ablation.built(name)
    with torch.no_grad():
        assert torch.isfinite(model(**inputs)[0]).all()


def test_price_of_a_short_encoder(monkeypatch):
    monkeypatch.setattr(encoder_price, "LAYERS", 1)
    result = CliRunner().invoke(encoder_price.main, ["--tokens", "64", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    stock, *forms = document["prices"]["64"]
    assert document["kind"] == "predicted" and stock["name"] == "stock"
    best = min(form["ms"] for form in forms)
    assert document["ratios"]["64"] == pytest.approx(stock["ms"] / best)
    assert best < stock["ms"]

    monkeypatch.setitem(encoder_price.TARGETS, 64, 100.0)
    equal = [encoder_price.Priced("stock", 1, 2.0), encoder_price.Priced("split", 1, 2.0)]
    monkeypatch.setattr(encoder_price, "prices", lambda tokens: equal)
    missed = CliRunner().invoke(encoder_price.main, ["--tokens", "64"])
    assert missed.exit_code == 1 and "≥ 100" in missed.output
