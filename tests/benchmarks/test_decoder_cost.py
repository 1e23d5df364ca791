"""Limits of an exported decoder: what keeps them and what does not."""

from __future__ import annotations

import pytest

from benchmarks import decoder_cost
from benchmarks.decoder_cost import Point, build, table


@pytest.mark.parametrize(
    ("found", "limit", "at_least", "kept"),
    [
        (2.1, 2.1, False, True),
        (2.11, 2.1, False, False),
        (0.9, 0.9, True, True),
        (0.89, 0.9, True, False),
    ],
)
def test_a_point_is_kept_within_its_limit(found: float, limit: float, at_least: bool, kept: bool):
    point = Point("decode", "price", found, limit, at_least)
    assert point.kept is kept
    assert list(table([point]).columns[-1].cells) == ["kept" if kept else "[red]missed[/red]"]


def test_the_decoder_shares_one_table():
    model = build(num_hidden_layers=1, hidden_size=32, intermediate_size=32, vocab_size=64)
    table_of = model.get_parameter("model.embed_tokens.weight")
    assert model.get_parameter("lm_head.weight") is table_of
    assert not model.training


def test_prompts_are_held_to_what_steps_are():
    assert set(decoder_cost.PROMPT) < set(decoder_cost.DECODE)
