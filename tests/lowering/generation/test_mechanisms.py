"""Ways in which families of transformers use their cache, each in several families; torch alone."""

from __future__ import annotations

import pytest
import torch

from benchmarks.generation_configs import build
from frontend.decoder.moving_ranges import moving_ranges
from frontend.decoder.probing import probe
from frontend.decoder.step import CallForm, rooms
from frontend.errors import AnePassesError
from lowering.generation.settings import functions
from lowering.generation.stepping import Stepper, call_forms


def works(family: str) -> CallForm:
    """The call form with which steps of one token and of four say what the model says."""
    tiny = build(family)
    decoder = probe(tiny.model, tiny.source)
    place = rooms(decoder, 32, 4)
    made = Stepper(tiny.model, decoder, place, "state", (), 32, 4)
    for form in call_forms(decoder):
        try:
            for function in functions(32, 4, 1):
                made.check(function, form)
        except AnePassesError:
            continue
        return form
    raise AssertionError(f"no call form of {family} works")


@pytest.mark.parametrize("family", ["roformer", "trocr", "mvp-seq2seq"])
def test_positions_as_a_range_from_the_tokens_seen(family: str):
    works(family)


@pytest.mark.parametrize("family", ["roberta", "m2m_100", "xlm-roberta", "data2vec-text"])
def test_positions_that_count_what_is_no_padding(family: str):
    assert not works(family).position_ids


@pytest.mark.parametrize("family", ["rembert", "megatron-bert", "roc_bert"])
def test_caches_for_an_encoder_that_is_not_there(family: str):
    works(family)


@pytest.mark.parametrize("family", ["moonshine", "nllb-moe", "t5gemma", "speech_to_text"])
def test_what_an_encoder_said_is_read_by_name(family: str):
    works(family)


@pytest.mark.parametrize("family", ["deepseek_v32", "glm_moe_dsa", "hy_v4"])
def test_keys_by_which_tokens_are_chosen_lie_with_the_others(family: str):
    works(family)
    decoder = probe(build(family).model)
    assert set(rooms(decoder, 32, 4).shapes) == {"key_cache", "value_cache"}


def test_ranges_from_tensors_are_sums_and_others_are_as_they_were():
    seen = torch.tensor([5])
    own = torch.arange
    with moving_ranges(3):
        assert torch.arange(seen, seen + 3, dtype=torch.int32).tolist() == [5, 6, 7]
        assert torch.arange(start=seen, end=seen + 3).tolist() == [5, 6, 7]
        assert torch.arange(4).tolist() == [0, 1, 2, 3]
        assert torch.arange(2, 8, 3).tolist() == [2, 5]
    assert torch.arange is own
