"""A package for generation against its decoder, function after function."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from lowering import VerificationError, verify
from lowering.cli import main
from lowering.generation import export_decoder
from lowering.generation.export import ExportReport
from lowering.generation.functions import Functions
from lowering.generation.verifying import verify_decoder
from lowering.reference import State
from tests.lowering.generation.families import gemma3, mamba, qwen3

MODEL = """
from tests.lowering.generation.families import qwen3

def same():
    return qwen3()
"""


def test_functions_take_turns_on_one_cache(model: nn.Module, exported: ExportReport):
    found = verify(exported.path, model)
    assert found.passed and found.steps == 9
    assert {name: found.functions.count(name) for name in exported.contract.steps} == {
        "decode": 3,
        "decode_4": 3,
        "prefill": 3,
    }
    assert found.functions[0] == "prefill"
    assert {item.name for item in found.outputs} == {f"{f}: logits" for f in found.functions}
    assert all(0 < item.rel_l2 < item.threshold for item in found.outputs)


def test_texts_start_anew_where_the_context_is_full(model: nn.Module, exported: ExportReport):
    found = verify_decoder(exported.path, model, steps=8, function="prefill")
    assert found.passed and found.functions == ("prefill",) * 8  # 48 tokens are 6 of them


def test_a_function_that_must_start_a_text_is_checked_at_its_start(tmp_path: Path):
    model = mamba(num_hidden_layers=1)
    report = export_decoder(model, tmp_path / "m", context=40, prefill=8, precision="fp32")
    found = verify_decoder(report.path, model, steps=12, precision="fp32")
    assert found.passed and found.functions.count("prefill") == 1


def test_another_model_does_not_pass(exported: ExportReport):
    other = qwen3()
    with torch.no_grad():
        other.get_parameter("model.layers.1.self_attn.k_norm.weight").mul_(3)
    found = verify_decoder(exported.path, other)
    assert not found.passed and found.divergence is not None
    assert "layers.1.self_attn" in found.divergence.source.module
    larger = qwen3(num_key_value_heads=4)
    with pytest.raises(VerificationError, match="made from another model"):
        verify_decoder(exported.path, larger)
    with pytest.raises(VerificationError, match="no such function"):
        verify_decoder(exported.path, other, function="encode")


def test_a_cache_that_is_not_handed_over_is_found(
    model: nn.Module, exported: ExportReport, monkeypatch: pytest.MonkeyPatch
):
    call = Functions.call

    def forgetting(self, name, inputs):
        if name == "decode":
            (package,) = self._parts
            state: State = package.state
            for key in state:
                state[key] = state[key] * 0
        return call(self, name, inputs)

    monkeypatch.setattr(Functions, "call", forgetting)
    found = verify_decoder(exported.path, model, locate=False)
    assert not found.passed and found.functions[found.step - 1] == "decode"


def test_a_package_that_overflows_does_not_pass(
    model: nn.Module, exported: ExportReport, monkeypatch: pytest.MonkeyPatch
):
    step = Functions.step
    monkeypatch.setattr(Functions, "step", lambda *given: step(*given) * float("nan"))
    found = verify_decoder(exported.path, model, locate=False)
    assert not found.passed and found.step == 1


def test_rings_and_caches_that_go_in_and_out(tmp_path: Path):
    model = gemma3()
    report = export_decoder(model, tmp_path / "m", context=64, prefill=8, cache="io")
    assert verify_decoder(report.path, model, steps=24).passed
    torch.manual_seed(5)
    with torch.no_grad():
        model.get_parameter("model.layers.0.mlp.up_proj.weight").add_(0.1)
    found = verify_decoder(report.path, model)
    assert found.divergence is not None and "layers.0.mlp" in found.divergence.source.module


def test_on_the_command_line(exported: ExportReport, tmp_path: Path):
    source = tmp_path / "model.py"
    source.write_text(MODEL)
    arguments = ["verify", str(exported.path), f"{source}:same", "--steps", "6"]
    shown = CliRunner().invoke(main, [*arguments, "--json"])
    assert shown.exit_code == 0, shown.output
    listed = json.loads(shown.stdout)
    assert listed["steps"] == 6 and listed["functions"][:2] == ["prefill", "decode_4"]
    alone = CliRunner().invoke(main, [*arguments, "--function", "decode"])
    assert alone.exit_code == 0 and "6 steps, decode 6×" in alone.output
    wrong = CliRunner().invoke(main, [*arguments, "--metric", "top1"])
    assert wrong.exit_code == 2 and "leave out --metric" in wrong.output
