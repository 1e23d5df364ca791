"""Ways in which families of transformers use their cache, each in several families; torch alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from benchmarks.generation_configs import build
from frontend.decoder.hidden_rows import HiddenRows
from frontend.decoder.moving_ranges import moving_ranges
from frontend.decoder.probing import probe
from frontend.decoder.step import CallForm, rooms
from frontend.errors import AnePassesError
from lowering.generation.errors import GenerationError
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


@pytest.mark.parametrize("family", ["minimax", "rwkv", "mllama"])
def test_caches_of_a_models_own_kind_and_layers_that_hold_nothing(family: str):
    works(family)


def test_what_is_listed_by_a_cache_or_carried_in_a_list_becomes_states():
    listed = probe(build("minimax").model)
    assert listed.is_recurrent and listed.kind is not None
    shapes = rooms(listed, 32, 4).shapes
    assert set(shapes) == {"key_cache", "value_cache", "linear_cache"}
    carried = probe(build("rwkv").model)
    assert carried.kind is list and len(carried.layers[0].carried) == 5


@pytest.mark.parametrize("family", ["led", "fsmt"])
def test_models_without_a_mask_for_a_single_token(family: str):
    assert works(family).hides_rows


@pytest.mark.parametrize("attend", ["softmax", "method", "whole"])
@pytest.mark.parametrize("tokens", [1, 3])
def test_rows_behind_a_token_are_hidden_from_attention(attend: str, tokens: int):
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(1, 2, tokens, 4, generator=draw)
    key, value = (torch.randn(1, 2, 8, 4, generator=draw) for _ in range(2))

    def attention() -> torch.Tensor:
        if attend == "whole":
            return functional.scaled_dot_product_attention(query, key, value)
        scores = query @ key.transpose(2, 3) / 2
        if attend == "method":
            return scores.softmax(-1) @ value
        return functional.softmax(scores, dim=-1) @ value

    free = attention()
    seen = torch.arange(8) <= 2 + torch.arange(tokens).unsqueeze(1)
    expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
    with HiddenRows(torch.tensor([2]), tokens, {8}):
        assert torch.allclose(attention(), expected, atol=1e-6)
    with HiddenRows(torch.tensor([2]), tokens, {16}):
        assert torch.equal(attention(), free)


def test_a_model_that_looks_further_than_its_window_is_told_so():
    tiny = build("moshi")
    decoder = probe(tiny.model)
    (decode,) = functions(64, 0, 1)

    def checked(ring: bool) -> None:
        place = rooms(decoder, 64, 1, ring=ring)
        made = Stepper(tiny.model, decoder, place, "state", (), 64, 1)
        made.check(decode, call_forms(decoder)[0])

    checked(ring=False)
    with pytest.raises(GenerationError, match=r"(?s)something else.*--window full"):
        checked(ring=True)


def test_ranges_from_tensors_are_sums_and_others_are_as_they_were():
    seen = torch.tensor([5])
    own = torch.arange
    with moving_ranges(3):
        assert torch.arange(seen, seen + 3, dtype=torch.int32).tolist() == [5, 6, 7]
        assert torch.arange(start=seen, end=seen + 3).tolist() == [5, 6, 7]
        assert torch.arange(4).tolist() == [0, 1, 2, 3]
        assert torch.arange(2, 8, 3).tolist() == [2, 5]
    assert torch.arange is own
