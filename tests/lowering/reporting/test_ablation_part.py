"""What a report shows of an ablation."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest

from lowering.reporting.ablation import charts, chip_of, notes, table
from lowering.reporting.ablation_overview import cells, overview, overview_table
from lowering.reporting.page import ablations_page, page
from lowering.reporting.result import ReportError
from lowering.reporting.summary import sentences
from lowering.reporting.write import read_ablation, read_ablations, written
from tests.lowering.reporting.ablations import ablation, figures


def values(spec):
    return spec["data"]["values"]


def without_times(found):
    """The same ablation on a chip without measured rows."""
    variants = tuple(
        replace(v, figures=v.figures and figures(None, v.figures.on("M4").dispatch_ms))
        for v in found.variants
    )
    return replace(found, variants=variants)


def test_each_program_is_drawn_once_with_its_verdict():
    found = charts(ablation(), "M4")
    verdicts = {row["name"]: row["verdict"] for row in values(found["time"])}
    assert verdicts == {
        "default": "default",
        "original": "slower",
        "without one": "no measurable difference",
        "without three": "faster",
        "attention=batched": "no measurable difference",
    }
    prices = {row["name"]: row["price_verdict"] for row in values(found["price"])}
    assert prices["original"] == "slower" and prices["attention=batched"] == "faster"
    assert prices["without three"] == "no measurable difference"


def test_intervals_are_the_predictions():
    (default,) = [r for r in values(charts(ablation(), "M4")["time"]) if r["name"] == "default"]
    assert (default["low"], default["ms"], default["high"]) == (1.5, 2.0, 2.5)


def test_without_times_only_prices_are_drawn():
    found = charts(without_times(ablation()), "M4")
    assert "time" not in found
    assert {row["what"] for row in values(found["prefix"])} == {"price"}


def test_prefixes_go_from_no_pass_to_the_default():
    steps = [s for s in values(charts(ablation(), "M4")["prefix"]) if s["what"] == "price"]
    assert [(s["after"], s["ms"]) for s in steps] == [("no pass", 8.0), ("One", 6.0), ("Two", 4.0)]


def test_the_table_has_every_variant():
    made = table(ablation(), "M4")
    rows = {row[0]: row for row in made.rows}
    assert list(rows) == [variant.name for variant in ablation().variants]
    assert all(len(row) == len(made.columns) for row in made.rows)
    assert rows["without two"][2] == "same program as default"
    assert rows["one alone"][2] == "the converter failed" and rows["one alone"][3] is None
    assert rows["default"][3:7] == (2.0, 1.5, 2.5, 4.0)
    assert "predicted" in made.note and "observed" in made.note


def test_notes_say_what_wins_and_what_does_nothing():
    text = "\n".join(notes(ablation(), "M4"))
    assert "original: slower, 2.00 ×" in text
    assert "without three: faster, 0.50 ×" in text
    assert re.search(r"no measurable difference .*without one", text)
    assert "without which the program is the same: two" in text


def test_another_chip_falls_back_to_the_ablations():
    assert chip_of(ablation(), "M1") == chip_of(ablation(), "M4") == "M4"


def test_the_summary_says_what_the_passes_win(report):
    text = " ".join(sentences(replace(report, ablation=ablation())))
    assert "price is 4.00 ms instead of 8.00 ms (predicted)" in text
    assert "time 2.00 ms instead of 4.00 ms" in text


def test_the_page_shows_the_ablation(report):
    text = page(replace(report, ablation=ablation()))
    for name in ("time-0", "price-0", "prefix-0"):
        assert f'id="chart-{name}"' in text
    assert 'data-table="ablation-0"' in text


def test_markdown_has_the_ablation(report):
    text = written(replace(report, ablation=ablation()), "md")
    assert "## Ablation" in text and "| `without one` | `without` |" in text


def test_models_side_by_side():
    two = [ablation("a"), replace(ablation("b"), variants=ablation("b").variants[:3])]
    found = {(cell["model"], cell["variant"]): cell for cell in cells(two, "M4")}
    assert found["a", "original"]["price"] == 2.0
    assert ("a", "without two") not in found  # the same program for every model
    rows = values(overview(two, "M4"))
    looks = {(row["model"], row["variant"]): row for row in rows}
    assert looks["a", "original"]["text"] == "2.00×"
    assert looks["a", "original"]["direction"] == "dearer"
    assert looks["a", "attention=batched"]["direction"] == "cheaper"
    assert looks["a", "without three"]["direction"] == "same"
    assert all(math.isfinite(row["strength"]) for row in rows)


def test_models_in_a_table():
    made = overview_table([ablation("a"), without_times(ablation("b"))], "M4")
    (a, b) = made.rows
    assert a[:3] == ("a", 20, 10) and a[5:9] == (8.0, 4.0, 4.0, 2.0)
    assert b[7:9] == (None, None)


def test_a_page_of_ablations():
    text = ablations_page([ablation("first"), ablation("second")], "M4")
    for name in ("overview", "time-0", "time-1", "prefix-1"):
        assert f'id="chart-{name}"' in text
    assert "first" in text and "second" in text


def test_ablations_are_read_back(tmp_path):
    path = tmp_path / "ablation.json"
    one, two = ablation("a"), ablation("b")
    path.write_text(json.dumps([one.to_json(), two.to_json()]))
    assert read_ablations(path) == [one, two]
    assert read_ablation(path, "b") == two
    with pytest.raises(ReportError, match="several models"):
        read_ablation(path)
    path.write_text(json.dumps(one.to_json()))
    assert read_ablation(path) == one
