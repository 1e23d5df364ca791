"""The page as a file: self-contained, safe, of bounded size, with predictions labelled."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from lowering.reporting.charts import charts
from lowering.reporting.page import page
from lowering.reporting.result import ReportError
from lowering.reporting.tables import all_tables

MAX_BYTES = 5_000_000


class Elements(HTMLParser):
    """Start tags with attributes, and the texts of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script" and self.scripts:
            self.scripts[-1] += data


@pytest.fixture(scope="module")
def text(report):
    return page(report)


def data_of(text):
    return json.loads(Elements(text).scripts[0])


def test_it_needs_nothing_else(text):
    for tag, attributes in Elements(text).tags:
        assert "src" not in attributes, tag
        target = attributes.get("href") or "#"
        assert target.startswith(("#", "data:")), target
    assert "@import" not in text and "url(" not in re.sub(r"<script>.*", "", text, flags=re.S)


def test_its_size_is_bounded(text):
    assert len(text.encode()) < MAX_BYTES


def test_it_holds_every_chart_and_table(text, report):
    data = data_of(text)
    assert set(data["charts"]) == {"placement", "types", "type-prices", "growth"}
    assert set(data["tables"]) == {table.name for table in all_tables(report)}
    identifiers = {attributes.get("id") for _, attributes in Elements(text).tags}
    assert {f"chart-{name}" for name in data["charts"]} <= identifiers
    assert len(data["tables"]["operators"]["rows"]) == len(report.plan.ops)


def test_sections_without_data_are_left_out(alone):
    text = page(alone)
    assert 'id="accuracy"' not in text and "growth" not in data_of(text)["charts"]
    assert " torch operators" not in text and " MIL operators" in text


def test_names_cannot_leave_the_script(report):
    evil = "</script><script>alert(1)</script><!-- <b>"
    ops = (replace(report.plan.ops[0], name=evil), *report.plan.ops[1:])
    broken = replace(
        report,
        plan=replace(report.plan, ops=ops),
        package=replace(report.package, name=evil),
    )
    found = Elements(page(broken))
    assert len(found.scripts) == 3
    assert not any("<!--" in script for script in found.scripts)
    assert "b" not in [tag for tag, _ in found.tags]
    assert json.loads(found.scripts[0])["tables"]["operators"]["rows"][0][1] == evil


def test_every_chart_of_prices_and_devices_says_predicted(report):
    for name, spec in charts(report).items():
        if name == "growth":
            assert "measured" in json.dumps(spec)
            continue
        assert "predicted" in json.dumps(spec), name


def test_prices_in_the_page_are_the_plans(text, report):
    rows = data_of(text)["charts"]["placement"]["data"]["values"]
    assert [row["price"] for row in rows] == [op.chosen_ms for op in report.plan.ops]
    assert [row["device"] for row in rows] == [op.device for op in report.plan.ops]


def test_an_empty_program_has_a_page(report):
    plan = replace(report.plan, ops=(), segments=(), advice=())
    text = page(replace(report, plan=plan, edges=(), block=None, accuracy=None))
    assert "The program has no operators." in text


def test_infinite_errors_are_no_numbers(report):
    outputs = report.accuracy.outputs
    broken = replace(outputs.outputs[0], rel_l2=math.inf, max_abs=math.nan)
    accuracy = replace(report.accuracy, outputs=replace(outputs, outputs=(broken,)))
    text = page(replace(report, accuracy=accuracy))
    script = Elements(text).scripts[0]
    data = json.loads(script, parse_constant=lambda name: pytest.fail(name))
    assert data["tables"]["outputs"]["rows"][0][1:3] == ["inf", "nan"]


@pytest.mark.parametrize("module", ["jinja2", "vl_convert"])
def test_missing_packages_are_named(report, monkeypatch, module):
    from lowering.reporting import page as page_module

    page_module._library.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ReportError, match=module):
        page(report)
