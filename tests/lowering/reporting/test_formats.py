"""Markdown, CSV, JSON, Model Explorer's graph, and files."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

from lowering.reporting.result import ReportError
from lowering.reporting.summary import facts
from lowering.reporting.tables import all_tables, shape_text
from lowering.reporting.write import read_ablation, written


def test_markdown_has_summary_tables_and_labels(report):
    text = written(report, "md")
    assert text.startswith("# encoder.mlpackage on M4\n")
    for fact in facts(report):
        assert f"| {fact.label} | {fact.value} | {fact.note} | {fact.kind} |" in text
    for table in all_tables(report):
        assert f"## {table.title}" in text
    assert "predicted" in text


def test_markdown_tables_are_well_formed(report):
    widths = set()
    for line in [*written(report, "md").splitlines(), ""]:
        if line.startswith("|"):
            widths.add(line.replace("\\|", "").count("|"))
        else:
            assert len(widths) <= 1
            widths = set()


def test_csv_has_every_operator(report):
    rows = list(csv.DictReader(io.StringIO(written(report, "csv"))))
    assert [row["operator"] for row in rows] == [op.name for op in report.plan.ops]
    assert [row["device"] for row in rows] == [op.device for op in report.plan.ops]
    assert [row["why"] for row in rows] == [
        op.reason.sentence if op.reason else "" for op in report.plan.ops
    ]


def test_json_has_everything_and_no_bare_nan(report):
    worst = replace(report.accuracy.growth[0], rel_l2=float("inf"))
    broken = replace(report, accuracy=replace(report.accuracy, growth=(worst,)))
    text = written(broken, "json")
    document = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert document["accuracy"]["growth"][0]["rel_l2"] == "inf"
    assert document["plan"]["kind"] == "predicted"
    assert document["plan"] == json.loads(json.dumps(report.plan.to_json()))


def test_json_is_the_same_twice(report):
    assert written(report, "json") == written(report, "json")


def test_the_graph_for_model_explorer(report):
    collection = json.loads(written(report, "graph-json"))
    (graph,) = collection["graphs"]
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert [node["label"] for node in graph["nodes"]] == [op.op_type for op in report.plan.ops]
    edges = {
        (int(edge["sourceNodeId"]), int(node["id"]))
        for node in graph["nodes"]
        for edge in node["incomingEdges"]
    }
    assert edges == set(report.edges)
    for node, op in zip(graph["nodes"], report.plan.ops, strict=True):
        assert node["namespace"] == op.source.module.replace(".", "/")
        attributes = {entry["key"]: entry["value"] for entry in node["attrs"]}
        assert all(isinstance(value, str) for value in attributes.values())
        assert attributes["device (predicted)"] == op.device
        for edge in node["incomingEdges"]:
            assert edge["sourceNodeId"] in nodes
    assert len({node["style"]["backgroundColor"] for node in graph["nodes"]}) == 2


@pytest.mark.parametrize(
    ("shape", "text"), [((1, 2, -1), "1×2×?"), ((), "scalar"), ((1, "s0"), "1×s0")]
)
def test_shapes(shape, text):
    assert shape_text(shape) == text


@pytest.mark.parametrize("text", ["", "no json", "{}", "[1]", '{"model": "x"}'])
def test_files_that_are_no_ablation(tmp_path, text):
    path = tmp_path / "ablation.json"
    path.write_text(text)
    with pytest.raises(ReportError, match="ablation cannot be read"):
        read_ablation(path)
