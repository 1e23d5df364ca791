"""What a report shows of a ladder of sizes."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from lowering.ablation.result import Predicted
from lowering.compression.ladder_result import Ladder, Level
from lowering.reporting.page import page
from lowering.reporting.result import ReportError
from lowering.reporting.size_ladder import ladder_charts, ladder_notes, ladder_table
from lowering.reporting.write import read_ladder, written


def ladder(metric="cosine"):
    """Four rungs, one of them refused; the second is the knee."""

    def level(name, size, error, price, warnings=()):
        predicted = Predicted("M4", 0.9, 0.8, 3, 2, price, price / 2, price / 3, price, "")
        found = 1 - error if metric else None
        return Level(name, size, error, found, predicted, warnings)

    levels = (
        level("as it was", 4_000_000, 0.001, 0.4),
        level("int8", 2_000_000, 0.004, 0.3),
        level("pal4", 1_000_000, 0.3, 0.2, ("a warning",)),
        level("pal2", 500_000, 0.7, 0.2),
        Level("joint", refused="the rung joint needs a package for iOS 18"),
    )
    return Ladder("net.mlpackage", "M4", metric, levels, "pal4", "small.mlpackage", "error 0.3")


def points(spec):
    return {row["rung"]: row for row in spec["data"]["values"]}


def test_every_rung_that_was_made_is_drawn_and_the_knee_is_marked():
    found = ladder_charts(ladder())
    assert set(found) == {"ladder-error", "ladder-metric"}
    rows = points(found["ladder-error"])
    assert list(rows) == ["as it was", "int8", "pal4", "pal2"]
    assert rows["int8"]["times"] == 2 and rows["int8"]["price"] == 0.3
    assert [row["rung"] for row in rows.values() if row["knee"]] == ["int8"] == [ladder().knee]
    (marked,) = [x for x in found["ladder-error"]["layer"] if x.get("name") == "knee"]
    assert [row["rung"] for row in marked["data"]["values"]] == ["int8"]


def test_without_a_metric_or_a_knee_there_is_less_to_draw():
    straight = replace(ladder(""), levels=ladder("").levels[:2])
    found = ladder_charts(straight)
    assert set(found) == {"ladder-error"} and not straight.knee
    assert not [x for x in found["ladder-error"]["layer"] if x.get("name") == "knee"]


@pytest.mark.parametrize(("error", "drawn"), [(0.0, 1e-6), (math.inf, None), (math.nan, None)])
def test_errors_that_no_scale_of_powers_has(error, drawn):
    first, *rest = ladder().levels
    made = ladder_charts(replace(ladder(), levels=(replace(first, error=error), *rest)))
    found = points(made["ladder-error"]).get("as it was")
    assert (found and found["drawn"]) == drawn


def test_the_table_has_what_was_refused():
    table = ladder_table(ladder())
    rows = {row[0]: row for row in table.rows}
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert rows["joint"][1] is None and "iOS 18" in rows["joint"][-1]
    assert rows["int8"][-1] == "knee" and rows["pal4"][-1] == "chosen"
    assert "predicted for M4" in table.note and "measured" in table.note


def test_notes_say_the_knee_the_choice_and_warnings():
    text = "\n".join(ladder_notes(ladder()))
    assert "the knee is int8: 2.00 times smaller" in text
    assert "error 0.3: pal4" in text and "pal4: a warning" in text


def test_json_there_and_back(tmp_path):
    file = tmp_path / "sizes.json"
    first, *rest = ladder().levels
    odd = replace(ladder(), levels=(first, replace(rest[0], error=math.inf), *rest[1:]))
    for found in (ladder(), odd, ladder("")):
        file.write_text(json.dumps(found.to_json()), encoding="utf-8")
        assert read_ladder(file) == found


@pytest.mark.parametrize("text", ["", "[]", '{"levels": []}', '{"levels": [{"name": "int8"}]}'])
def test_what_is_no_ladder_is_refused(tmp_path, text):
    file = tmp_path / "sizes.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ReportError, match="the ladder cannot be read"):
        read_ladder(file)


def test_every_format_has_the_ladder(alone):
    made = replace(alone, ladder=ladder())
    text = page(made)
    assert 'id="chart-ladder-error"' in text and 'data-table="ladder"' in text
    assert "## Ladder of sizes" in written(made, "md") and "| `int8` |" in written(made, "md")
    assert json.loads(written(made, "json"))["ladder"]["knee"] == "int8"
    assert "chart-ladder" not in page(alone) and "Ladder of sizes" not in written(alone, "md")
