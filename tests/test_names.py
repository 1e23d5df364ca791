"""A public class has a name of its own: whoever reads it knows which one is meant."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("frontend", "passes", "lowering")


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
