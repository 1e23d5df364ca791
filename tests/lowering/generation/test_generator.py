"""The generator: turns, limits, choice of functions, sampling, several tokens at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from lowering.generation import ContextError, GenerationError, Generator, Sampling
from lowering.generation.export import ExportReport
from lowering.generation.sampling import Sampler, probabilities
from lowering.reference import load, make_state
from tests.lowering.generation.families import VOCABULARY, greedy, prompt

CONTEXT = 48


@pytest.fixture
def generator(exported: ExportReport) -> Generator:
    return Generator(exported.path, precision="fp32")


@pytest.mark.parametrize("length", [1, 7, 8, 9, 20])
def test_prompts_of_any_length(generator: Generator, model: nn.Module, length: int):
    ids = prompt(length, seed=length)
    count = CONTEXT - length
    assert generator.generate(ids, count) == greedy(model, ids, count)
    assert generator.position == CONTEXT - 1  # the last token is not fed before it is needed


def test_a_prompt_that_fills_the_context(generator: Generator, model: nn.Module):
    ids = prompt(CONTEXT)
    assert generator.generate(ids, 1) == greedy(model, ids, 1)
    assert generator.calls == {"prefill": 6}


def test_a_second_turn_and_reset(generator: Generator, model: nn.Module):
    first, second = prompt(6), prompt(5, seed=1)
    answer = generator.generate(first, 7)
    history = [*first, *answer, *second]
    assert generator.generate(second, 9) == greedy(model, history, 9)
    generator.reset()
    assert generator.position == 0
    assert generator.logits is None
    assert generator.generate(first, 7) == answer


def test_half_precision_differs_at_ties_only(exported: ExportReport, model: nn.Module):
    ids = prompt(9)
    expected, found = greedy(model, ids, 30), Generator(exported.path).generate(ids, 30)
    at = next((i for i in range(30) if expected[i] != found[i]), None)
    if at is not None:
        import torch

        with torch.no_grad():
            logits = model(torch.tensor([[*ids, *expected[:at]]])).logits[0, -1]
        assert logits[expected[at]] - logits[found[at]] < 0.02 * logits.std()


def test_four_tokens_at_once_are_four_single_steps(exported: ExportReport):
    ids = np.array([prompt(4)], np.int32)
    several = load(exported.path, function="decode_4", precision="fp32")
    at_once = several({"input_ids": ids, "position": [0]}, several.make_state())["logits"]
    single = load(exported.path, function="decode", precision="fp32")
    state = make_state(single)
    one_by_one = [
        single({"input_ids": ids[:, [i]], "position": [i]}, state)["logits"] for i in range(4)
    ]
    np.testing.assert_allclose(at_once, np.concatenate(one_by_one, 1), rtol=1e-4, atol=1e-4)


def test_a_draft_is_checked_in_one_call(generator: Generator, model: nn.Module):
    ids = prompt(7)
    answer = greedy(model, ids, 8)
    generator.feed(ids)
    wrong = (answer[2] + 1) % 128
    rows = generator.check([*answer[:2], wrong, answer[3]])
    assert rows.shape == (4, 128) and generator.calls == {"prefill": 1, "decode_4": 1}
    assert rows[:2].argmax(1).tolist() == answer[1:3]
    generator.rewind(len(ids) + 2)
    assert generator.generate(answer[2:3], 5) == answer[3:]


def test_a_draft_behind_a_token_that_was_not_fed(generator: Generator, model: nn.Module):
    ids = prompt(5)
    answer = greedy(model, ids, 6)
    assert generator.generate(ids, 1) == answer[:1]
    assert generator.check(answer[1:4]).argmax(1).tolist() == answer[2:5]
    assert generator.check([]).shape == (0, 128)


def test_places_that_cannot_be_gone_back_to(generator: Generator, monkeypatch):
    generator.feed(prompt(12))
    for position in (0, 13):
        with pytest.raises(GenerationError, match="no such place"):
            generator.rewind(position)
    generator.rewind(1)
    assert generator.position == 1 and generator.logits is None
    generator.feed(prompt(11))
    monkeypatch.setattr(generator, "contract", replace(generator.contract, rings=(32,)))
    with pytest.raises(GenerationError, match="ring no longer holds"):
        generator.rewind(3)
    generator.rewind(5)
    states = {"key_cache": (1,), "conv_state": (1,)}
    monkeypatch.setattr(generator, "contract", replace(generator.contract, states=states))
    with pytest.raises(GenerationError, match="cannot forget single tokens"):
        generator.rewind(4)


def test_the_state_of_one_function_is_handed_to_another(exported: ExportReport):
    prefill = load(exported.path, function="prefill")
    assert list(prefill.make_state()) == list(load(exported.path, function="decode").make_state())


def test_a_prompt_that_is_too_long(generator: Generator):
    with pytest.raises(ContextError, match=r"(?s)at most 48 tokens.*49 tokens"):
        generator.generate(prompt(49))
    assert generator.position == 0


def test_a_context_that_is_full_in_the_middle(generator: Generator, model: nn.Module):
    ids = prompt(40)
    with pytest.raises(ContextError, match="in the middle") as caught:
        generator.generate(ids, 64)
    assert list(caught.value.tokens) == greedy(model, ids, 9)


@pytest.mark.parametrize("token", [-1, VOCABULARY, 10**6])
def test_ids_outside_the_vocabulary(generator: Generator, token: int):
    with pytest.raises(GenerationError, match="outside the vocabulary"):
        generator.generate([5, token])


def test_nothing_to_start_from(generator: Generator):
    with pytest.raises(GenerationError, match="no token to start from"):
        generator.generate([])


def test_stop_tokens_and_callback(generator: Generator):
    ids = prompt(6)
    seen: list[int] = []
    whole = generator.generate(ids, 12, on_token=seen.append)
    assert seen == whole
    generator.reset()
    stop = whole[5]
    assert generator.generate(ids, 12, stop=(stop,)) == whole[: whole.index(stop) + 1]


def test_draws_follow_the_seed(generator: Generator):
    def drawn(seed: int) -> list[int]:
        generator.reset()
        return generator.generate(prompt(4), 12, sampling=Sampling(1.0, top_k=50, seed=seed))

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


def test_what_tokens_are_drawn_with():
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))
    np.testing.assert_allclose(probabilities(logits, Sampling(1.0)), [0.1, 0.4, 0.2, 0.3], 1e-6)
    top_two = probabilities(logits, Sampling(1.0, top_k=2))
    np.testing.assert_allclose(top_two, [0, 4 / 7, 0, 3 / 7], 1e-6)
    nucleus = probabilities(logits, Sampling(1.0, top_p=0.75))
    np.testing.assert_allclose(nucleus, [0, 4 / 9, 2 / 9, 3 / 9], 1e-6)
    np.testing.assert_allclose(probabilities(logits, Sampling(1.0, top_p=0.1)), [0, 1, 0, 0])
    cold = probabilities(logits, Sampling(0.5))
    np.testing.assert_allclose(cold, np.array([1, 16, 4, 9]) / 30, 1e-5)
    assert Sampler(Sampling())(logits) == 1


@pytest.mark.parametrize("options", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0}, {"top_p": 2}])
def test_sampling_out_of_range(options):
    with pytest.raises(GenerationError, match="out of range"):
        Sampling(**options)


def test_a_package_of_other_origin(tmp_path):
    import torch

    from lowering import convert, save

    other = save(convert(torch.nn.Linear(4, 4), (torch.zeros(1, 4),)), tmp_path / "other")
    with pytest.raises(GenerationError, match="does not say how it is driven"):
        Generator(other)
