"""Models of one protocol differ in what helps them; which call fits is found by calling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from torch import nn

from frontend.decoder.probing import probe
from frontend.decoder.step import CallForm, rooms
from frontend.errors import AnePassesError, CaptureError
from lowering.generation.settings import functions
from lowering.generation.stepping import Stepper, call_forms
from tests.lowering.generation.families import decoder, gpt2

_LOCAL: Mapping[str, Any] = {"attention_types": [[["global", "local"], 1]], "window_size": 8}
_BART: Mapping[str, Any] = {
    "d_model": 64,
    "decoder_layers": 2,
    "encoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 96,
}


def stepper(model: nn.Module) -> Stepper:
    found = probe(model)
    return Stepper(model, found, rooms(found, 64, 8), "state", (), 64, 8)


def fitting(model: nn.Module) -> list[CallForm]:
    """The forms that fit for a token and for a run of eight."""
    made = stepper(model)
    found = []
    for form in call_forms(probe(model)):
        try:
            for function in functions(64, 8, 1):
                made.check(function, form)
        except AnePassesError:
            continue
        found.append(form)
    return found


@pytest.mark.parametrize(
    ("build", "looks_full"),
    [
        (gpt2, False),
        (lambda: decoder("BloomForCausalLM"), False),
        (lambda: decoder("OPTForCausalLM", ffn_dim=96, word_embed_proj_dim=64), False),
        (lambda: decoder("BartForCausalLM", **_BART), False),
        (lambda: decoder("BertLMHeadModel", is_decoder=True), False),
        (lambda: decoder("GPTNeoForCausalLM", num_layers=2, num_heads=4, **_LOCAL), True),
    ],
    ids=["gpt2", "bloom", "opt", "bart", "bert", "gpt-neo"],
)
def test_a_form_is_found(build: Callable[[], nn.Module], looks_full: bool):
    assert fitting(build())[0].looks_full is looks_full


def test_what_a_model_raises_is_one_error():
    model = decoder("CpmAntForCausalLM", dim_model=64, dim_head=16, num_attention_heads=4)
    (function, *_) = functions(64, 0, 1)
    with pytest.raises(CaptureError, match=r"(?s)decode: the model cannot be called.*CpmAnt.*size"):
        stepper(model).program(function)
