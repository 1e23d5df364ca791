"""Tables say what differs, and say the same things once."""

from __future__ import annotations

from dataclasses import replace

from lowering.ablation.result import VariantResult
from lowering.ablation.tables import ablation_markdown, headings, notes, rows
from tests.lowering.ablation.test_result import ablation, figures


def same(name, kind, count=0):
    return VariantResult(name, kind, ("P()",) * count, same_as="default", figures=figures(2.0, 4.0))


def test_one_row_for_each_program():
    faster = VariantResult("without b", "without", (), figures=figures(1.0, 2.0))
    alike = VariantResult("without c", "without", (), figures=figures(2.1, 2.0))
    broken = VariantResult("without d", "without", (), failure="no such operator\nat line 3")
    found = ablation(same("without a", "without"), faster, alike, broken)
    texts = {row[0]: row[1:] for row in rows(found, "M4")}
    assert list(texts) == ["default", "without b", "without c", "without d"]
    assert texts["without b"][-1] == "0.50×"
    assert texts["without c"][-1] == "≈"
    assert texts["default"][-1] == ""
    assert texts["without d"] == ["not measured: no such operator"]
    assert len(texts["default"]) == len(headings()) - 1
    assert texts["without b"][headings().index("latency ms") - 1] == "1 (0.67–1.5)"


def test_equal_programs_are_grouped():
    found = ablation(
        *(same(f"without {name}", "without") for name in "ab"),
        *(same(f"{name} alone", "alone") for name in "cd"),
        *(same(f"first {n}, to x", "prefix", n) for n in (1, 2, 3, 7)),
        same("attention=batched", "form"),
    )
    assert next(notes(found)) == (
        "Same program as default: without a, b; c, d alone; first 1 to 3 passes; first 7 passes; "
        "attention=batched."
    )


def test_markdown_keeps_its_columns():
    variant = VariantResult("a|b", "form", (), figures=figures(None))
    lines = ablation_markdown(replace(ablation(variant), half_error=None)).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} == {len(headings()) + 1}
    assert any("predicted" in line for line in lines)
