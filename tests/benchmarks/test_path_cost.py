"""The benchmark of the whole path measures both sides whole and notices a missed target."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from benchmarks import path_cost
from benchmarks.path_cost import Figure


def test_a_path_is_the_whole_of_both_sides(monkeypatch: pytest.MonkeyPatch):
    saved: list[str] = []
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()).eval()
    monkeypatch.setitem(path_cost.PATHS, "small", (lambda: (model, (torch.randn(1, 4),)), 0.5))
    ours, stock = path_cost._ours, path_cost._stock

    def noted(call, model, inputs, package):
        call(model, inputs, package)
        saved.append(package.stem)
        assert (package / "Manifest.json").is_file()

    monkeypatch.setattr(path_cost, "_ours", lambda *given: noted(ours, *given))
    monkeypatch.setattr(path_cost, "_stock", lambda *given: noted(stock, *given))
    figure = path_cost.path("small", runs=1)
    assert saved == ["stock", "ours"] * 2  # the first use is not counted
    assert figure.beside is not None
    assert figure.found == pytest.approx(figure.ours / figure.beside) and figure.ours > 0


def test_seconds_are_those_of_the_processor():
    import time

    assert path_cost.seconds(lambda: time.sleep(0.05)) < 0.04
    assert path_cost.seconds(lambda: sum(range(2_000_000))) > 0.005


@pytest.mark.parametrize(
    ("ours", "beside", "met"),
    [(1.0, 2.0, True), (2.0, 2.0, False), (0.4, None, True), (0.7, None, False)],
)
def test_exit_code_and_table(
    ours: float, beside: float | None, met: bool, monkeypatch: pytest.MonkeyPatch
):
    figure = Figure("check", ours, beside, target=0.5)
    monkeypatch.setattr(path_cost, "check", lambda runs: figure)
    result = CliRunner().invoke(path_cost.main, ["--only", "check"])
    assert result.exit_code == (0 if met else 1)
    assert ("missed" in result.stdout) is not met
    (shown,) = json.loads(CliRunner().invoke(path_cost.main, ["--only=check", "--json"]).stdout)
    assert shown["met"] is met and shown["found"] == pytest.approx(ours / (beside or 1))
