"""What cannot be exported is one error with numbers, and nothing is left on disk."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from frontend.errors import AnePassesError
from lowering.generation import export_decoder, settings
from lowering.generation.settings import functions
from tests.lowering.generation.families import decoder, gpt2


def _encoder() -> nn.Module:
    return decoder("BertLMHeadModel", without=("num_key_value_heads", "head_dim"))


def _bert() -> nn.Module:
    return decoder("BertForMaskedLM", without=("num_key_value_heads", "head_dim"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 200}, r"(?s)at most 128, its max_position_embeddings.*200"),
        ({"context": 32, "prefill": 64}, r"(?s)at most 32 tokens, the context.*64"),
        ({"context": 0}, "context is out of range"),
        ({"context": 32, "prefill": -1}, "prefill is out of range"),
        ({"context": 32, "decode": 4}, "needs a function for one token"),
        ({"context": 32, "cache": "ring"}, "no such form of the cache"),
    ],
)
def test_numbers_that_do_not_fit(model: nn.Module, options: dict[str, Any], message: str, tmp_path):
    with pytest.raises(AnePassesError, match=message):
        export_decoder(model, tmp_path / "m", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.train(), "training mode"),
        (lambda model: model.to(torch.bfloat16), r"(?s)float32.*bfloat16.*model\.float\(\)"),
        (lambda model: model.half(), r"(?s)not float32.*float16"),
        (lambda model: _bert(), "no decoder that can be exported"),
        (lambda model: _encoder(), "no cache of keys and values|no decoder that can be exported"),
        (lambda model: nn.Linear(4, 4).eval(), "no decoder that can be exported"),
        (lambda model: model.model, "returns no logits"),
    ],
)
def test_models_that_do_not_fit(model: nn.Module, change, message: str, tmp_path: Path):
    with pytest.raises(AnePassesError, match=message):
        export_decoder(change(copy.deepcopy(model)), tmp_path / "m", context=32, prefill=0)
    assert list(tmp_path.iterdir()) == []


def test_paths_that_do_not_fit(model: nn.Module, tmp_path: Path):
    taken = tmp_path / "m.mlpackage"
    taken.mkdir()
    with pytest.raises(AnePassesError, match="not a package stands"):
        export_decoder(model, taken, context=32)
    (taken / "Manifest.json").write_text("{}")
    with pytest.raises(AnePassesError, match="a package stands at the output path"):
        export_decoder(model, taken, context=32)
    with pytest.raises(AnePassesError, match="folder does not exist"):
        export_decoder(model, tmp_path / "nowhere" / "m", context=32)
    assert [p.name for p in taken.iterdir()] == ["Manifest.json"]


@pytest.mark.parametrize("share", [0, 0.5, 1.4])
def test_too_little_memory_is_free(model: nn.Module, share: float, monkeypatch, tmp_path: Path):
    weights = sum(parameter.nbytes for parameter in model.parameters())
    # A machine of any size, most of which is taken.
    free = SimpleNamespace(total=2**50, available=int(share * weights))
    monkeypatch.setattr(settings.psutil, "virtual_memory", lambda: free)
    with pytest.raises(AnePassesError, match=r"(?s)too little memory is free.*GiB.*GiB"):
        export_decoder(model, tmp_path / "m", context=32)
    assert list(tmp_path.iterdir()) == []
    free.available = 2 * weights
    settings.check_memory(model)


def test_a_model_is_left_as_it_was(tmp_path: Path):
    model = gpt2()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    export_decoder(model, tmp_path / "m", context=32, prefill=0)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert not model.training


def test_functions_and_their_names():
    def names(*arguments) -> list[str]:
        return [function.name for function in functions(*arguments)]

    assert names(64, 16, 1) == ["decode", "prefill"]
    assert names(64, 0, 1) == ["decode"]
    assert names(64, (16, 32), (1, 4)) == ["decode", "decode_4", "prefill_16", "prefill_32"]
    assert names((32, 64), 48, 1) == ["decode", "prefill", "decode_of_32"]
