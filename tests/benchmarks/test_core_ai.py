"""The table of Core AI: what is counted, what is kept, and what ends a measuring process."""

import json
from dataclasses import asdict

import pytest
from rich.console import Console

pytest.importorskip("coreai_torch", reason="needs ane-passes[coreai]")

from benchmarks.core_ai import run as runs
from benchmarks.core_ai.__main__ import by_family, by_model
from benchmarks.core_ai.sides import BROKEN, REFUSED, RIGHT_KIND, WRONG, Made, Verdict, verdict
from frontend.errors import AnePassesError


def test_a_verdict_is_one_of_four():
    def refuse():
        raise AnePassesError("it cannot be", found="that")

    assert verdict(lambda: Made(3, lambda: 1e-5), "float32") == Verdict(RIGHT_KIND, 1e-5, 3)
    assert verdict(lambda: Made(3, lambda: 1e-2), "float32").kind == WRONG
    assert verdict(lambda: Made(3, lambda: 1e-2), "float16").kind == RIGHT_KIND
    assert verdict(lambda: Made(3, lambda: float("nan")), "float32").kind == WRONG
    refused = verdict(refuse, "float32")
    assert refused.kind == REFUSED and "it cannot be" in refused.reason
    broken = verdict(lambda: Made(4, lambda: [][0]), "float32")
    assert broken.kind == BROKEN and broken.ops == 4 and "IndexError" in broken.reason


def test_kept_results_are_measured_again_when_the_sources_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "CACHE", tmp_path)
    right = asdict(Verdict(RIGHT_KIND, 1e-6, 7))
    asked = []

    def measured(ways, names):
        asked.append((ways, list(names)))
        for name in list(names):
            yield name, {way: {"ours": right, "plain": right} for way in ways}

    monkeypatch.setattr(runs, "_in_a_process", measured)
    first = runs.run(["mlp", "lstm"], ["float32"])
    assert first == runs.run(["mlp", "lstm"], ["float32"]) and len(asked) == 1
    runs.run(["mlp"], ["float32", "native"])
    assert asked[1:] == [(("native",), ["mlp"])]
    monkeypatch.setattr(runs, "sources_key", lambda: "others")
    runs.run(["lstm"], ["float32"])
    assert asked[2:] == [(("float32",), ["lstm"])]
    runs.run(["mlp"], ["float32"], resume=True)
    assert len(asked) == 3


def test_a_model_that_ends_the_process_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "CACHE", tmp_path)
    found = runs.run(["no-such-model"], ["native"])["no-such-model"]["native"]
    assert found["ours"]["kind"] == BROKEN and "exit code 1" in found["ours"]["reason"]
    assert json.loads((tmp_path / "no-such-model.json").read_text())["native"] == found


def test_tables():
    right, wrong = Verdict(RIGHT_KIND, 1e-6, 7), Verdict(WRONG, 0.5, 9, "relative L2 5e-01")
    results = {
        "mlp": {"float32": {"ours": asdict(right), "plain": asdict(wrong)}},
        "bert": {"float32": {"ours": asdict(right)}},
    }
    console = Console(width=120)
    with console.capture() as shown:
        console.print(by_family(results, "float32"), by_model(results, "float32"))
    rows = [line.split() for line in shown.get().splitlines()]
    assert ["plain", "1", "1", "0", "0", "0", "0", "1", "0", "0"] in rows
    assert ["all", "2", "2", "0", "0", "0", "0", "1", "0", "0"] in rows
    assert ["mlp", "right", "1.0e-06", "7", "wrong", "5.0e-01", "9"] in rows
