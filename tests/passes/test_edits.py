"""Passes edit programs through the Rewriter alone: read off their sources."""

import ast
from pathlib import Path

import pytest

import passes

ROOT = Path(passes.__file__).parent
# What fx has for edits, and what the Rewriter counts.
CALLS = {
    "replace_all_uses_with", "replace_input_with", "update_arg", "update_kwarg", "insert_arg",
    "erase_node", "call_function", "create_node", "node_copy", "graph_copy", "inserting_before",
    "inserting_after", "eliminate_dead_code", "_update_args_kwargs", "set_submodule",
}  # fmt: skip
FIELDS = {"args", "kwargs", "target", "op", "meta", "rewrites", "declined", "notes", "emitted"}
PRIVATE = {"_graph", "_draft"}


def edits(source: str) -> list[str]:
    """What a source does to a graph past the Rewriter, each with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            if node.attr in CALLS | PRIVATE:
                found.append(f"{node.lineno}: {node.attr}")
            if isinstance(node.ctx, ast.Store | ast.Del) and node.attr in FIELDS:
                found.append(f"{node.lineno}: {node.attr} =")
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            held = node.value
            if isinstance(held, ast.Attribute) and held.attr in FIELDS:
                found.append(f"{node.lineno}: {held.attr}[] =")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of = node.func.value
            if isinstance(of, ast.Attribute) and of.attr in FIELDS and node.func.attr in (
                "append", "extend", "update", "pop", "clear", "setdefault",
            ):  # fmt: skip
                found.append(f"{node.lineno}: {of.attr}.{node.func.attr}")
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: p.stem)
def test_a_pass_edits_through_the_rewriter_alone(path):
    if path.name != "rewriter.py":
        assert edits(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "node.replace_all_uses_with(other)",
        "with rw._graph.inserting_before(node): pass",
        "rw.rewrites += 1",
        "node.args = ()",
        "node.meta['val'] = 3",
        "del node.kwargs['x']",
        "rw.notes.append('x')",
        "edit = user.replace_input_with",
    ],
)
def test_edits_past_it_are_found(source):
    assert edits(source)


def test_reading_is_no_edit():
    assert edits("x = node.args[0]; y = node.meta['val']; z = found.append(node.op)") == []
