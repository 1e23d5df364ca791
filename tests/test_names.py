"""A public class has a name of its own, and so has each of many values that a call hands over."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("frontend", "passes", "lowering")
# Nobody counts to the eighth argument: from here on each is given by its name.
MANY = 8


def shared_names(sources: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Names of public classes that several of the files ``(path, text)`` define."""
    places = defaultdict(list)
    for path, text in sources:
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path)
    return {name: found for name, found in places.items() if len(found) > 1}


def test_public_classes_have_names_of_their_own():
    files = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]
    assert shared_names((str(f.relative_to(ROOT)), f.read_text()) for f in files) == {}


def test_shared_names_are_found():
    files = [
        ("a.py", "class Plan: ..."),
        ("b.py", "class Plan: ...\nclass _Own: ..."),
        ("c.py", "class _Own: ...\nclass Other:\n    class Plan: ..."),
    ]
    assert shared_names(files) == {"Plan": ["a.py", "b.py"]}


def values_without_names(sources: Iterable[tuple[str, str]]) -> list[str]:
    """``path:line`` of each making of an object from ``MANY`` or more values without names."""
    return [
        f"{path}:{node.lineno}"
        for path, text in sources
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and len(node.args) >= MANY
        and ast.unparse(node.func).rpartition(".")[2].lstrip("_")[:1].isupper()
    ]


def test_many_values_are_given_by_name():
    files = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]
    assert values_without_names((str(f.relative_to(ROOT)), f.read_text()) for f in files) == []


def test_values_without_names_are_found():
    files = [
        ("a.py", "Plan(1, 2, 3, 4, 5, 6, 7, 8)"),
        ("b.py", "x\nof.Plan(1, 2, 3, 4, 5, 6, 7, *y)"),
    ]
    files += [("c.py", "Plan(1, 2, three=3)"), ("d.py", "plan(1, 2, 3, 4, 5, 6, 7, 8)")]
    assert values_without_names(files) == ["a.py:1", "b.py:2"]
