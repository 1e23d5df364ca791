"""The cost benchmark measures what it says and notices a missed target."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import optimize_cost, ports


def test_growth_on_shallow_models(monkeypatch: pytest.MonkeyPatch):
    small: dict[str, Any] = {"width": 8, "heads": 2}
    for name, value in (("SHALLOW", 1), ("DEEP", 2), ("NARROW", small)):
        monkeypatch.setattr(optimize_cost, name, value)
    found = optimize_cost.growth(runs=1)
    assert list(found["seconds_per_layer"]) == [1, 2]
    shallow, deep = found["seconds_per_layer"].values()
    assert found["ratio"] == pytest.approx(deep / shallow)


def test_memory_of_a_fresh_process_is_reported(monkeypatch: pytest.MonkeyPatch):
    found = optimize_cost.memory(threads=1)
    model, _ = ports.distilbert()
    weights = sum(p.numel() * 4 for p in model.parameters()) / 1e6
    assert found["weights_mb"] == pytest.approx(weights)
    assert found["added_mb"] > 0 and found["met"] is (found["peak_mb"] <= found["limit_mb"])


@pytest.mark.parametrize("met", [True, False])
def test_exit_code(met: bool, monkeypatch: pytest.MonkeyPatch):
    cost = {"ratio": 1.0, "target": 1.0, "met": met}
    times = {"optimize_seconds": [1.0], "stock_convert_seconds": [1.0]}
    layers = {"seconds_per_layer": {6: 1.0, 48: 1.0}, "ratio": 1.0, "target": 1.3, "met": True}
    space = {"weights_mb": 1.0, "added_mb": 1.0, "peak_mb": 2.0, "limit_mb": 3.0, "met": True}
    monkeypatch.setattr(optimize_cost, "ratio", lambda runs: {**cost, **times})
    monkeypatch.setattr(optimize_cost, "growth", lambda runs: layers)
    monkeypatch.setattr(optimize_cost, "memory", lambda threads: space)
    result = CliRunner().invoke(optimize_cost.main, [])
    assert result.exit_code == (0 if met else 1)
    assert ("missed" in result.stdout) is not met
