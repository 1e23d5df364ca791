"""The form that is predicted to be fastest, for sites of different sizes, chips and systems."""

from __future__ import annotations

import pytest

from frontend.errors import AnePassesError
from lowering.planner.attention_form import choose_form
from lowering.planner.latency import fitted
from lowering.planner.targets import UnknownChipError
from passes.attention_choice import AttentionSite

FITTED = sorted(fitted()["chips"])


def site(tokens, heads=12, groups=0, keys=0, *, batch=1, masked=True):
    return AttentionSite(batch, heads, groups or heads, tokens, keys or tokens, 64, 64, masked)


@pytest.mark.parametrize("system", ["iOS17", "iOS18", "macOS14"])
@pytest.mark.parametrize("chip", FITTED)
def test_scores_that_fit_stay_together(chip, system):
    assert choose_form(site(128), chip, system, 512).form in ("batched", "native")


@pytest.mark.parametrize("chip", ["M2", "M4", "M1 Max"])
@pytest.mark.parametrize("tokens", [512, 768])
def test_scores_that_fit_by_the_head_are_split(chip, tokens):
    choice = choose_form(site(tokens), chip, "iOS17", 512)
    assert (choice.form, choice.query_chunk) == ("split", tokens if tokens == 512 else 384)


@pytest.mark.parametrize(("chip", "on_chip"), [("M2", 2.3e6), ("M5 Pro", 4.72e6)])
@pytest.mark.parametrize("keys", [1500, 2048, 4096])
def test_long_sequences_are_cut_until_two_tiles_fit(chip, on_chip, keys):
    choice = choose_form(site(keys, heads=8), chip, "iOS17", 512)
    assert choice.form == "split"
    assert 2 * choice.query_chunk * keys * 2 <= on_chip
    assert choice.query_chunk * 2 * keys * 2 * 2 > on_chip / 2
    assert "private" in choice.reason


@pytest.mark.parametrize("most", [1, 11, 24])
def test_a_cap_on_parts_is_kept(most):
    choice = choose_form(site(2048), "M4", "iOS17", most)
    parts = 12 * -(-2048 // choice.query_chunk) if choice.form == "split" else 1
    assert parts <= most


@pytest.mark.parametrize("chip", ["A15", "A19 Pro", "M6", "H16G"])
def test_a_chip_without_a_fit_takes_the_default_and_says_so(chip):
    choice = choose_form(site(512), chip, "iOS18", 512)
    assert choice.form == "split"
    assert "no measured program" in choice.reason
    assert choose_form(site(512), chip, "iOS18", 4).form == "batched"


@pytest.mark.parametrize("system", ["iOS17", "iOS18"])
def test_native_needs_its_system(system):
    sites = [site(n, masked=masked) for n in (1, 16, 64, 128, 1500) for masked in (True, False)]
    reasons = [choose_form(entry, "M4", system, 512).reason for entry in sites]
    assert all(("native" in reason) is (system == "iOS18") for reason in reasons)


def test_what_is_not_known_is_refused():
    with pytest.raises(UnknownChipError):
        choose_form(site(128), "M99", "iOS17", 512)
    with pytest.raises(AnePassesError, match="the system has no number"):
        choose_form(site(128), "M4", "latest", 512)
