"""Signatures say what they take: ``Any`` in them, and silenced type errors, only become fewer."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("frontend", "passes", "lowering")
EVERYTHING = (*PACKAGES, "benchmarks", "tests")
# To be lowered with the count, never raised: `object` says "anything, looked at before use".
MOST_ANY = 140
MOST_ANY_ANYWHERE = 150
MOST_IGNORED = 4


def annotated(tree: ast.AST) -> Iterator[ast.expr]:
    """Of every parameter and result."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs]
            spread = [argument for argument in (given.vararg, given.kwarg) if argument is not None]
            found = [*(p.annotation for p in (*parameters, *spread)), node.returns]
            yield from (annotation for annotation in found if annotation is not None)


def is_any(annotation: ast.expr) -> bool:
    """``Any``, or a union with it."""
    if isinstance(annotation, ast.BinOp):
        return is_any(annotation.left) or is_any(annotation.right)
    return ast.unparse(annotation) in ("Any", "typing.Any")


def count_any(source: str) -> int:
    return sum(map(is_any, annotated(ast.parse(source))))


def sources(*packages: str) -> list[str]:
    return [path.read_text() for name in packages for path in sorted((ROOT / name).rglob("*.py"))]


def test_any_in_signatures_becomes_less():
    assert sum(map(count_any, sources(*PACKAGES))) <= MOST_ANY
    assert sum(map(count_any, sources(*EVERYTHING))) <= MOST_ANY_ANYWHERE


def test_passes_silence_few_type_errors():
    assert sum(source.count("# type: ignore") for source in sources("passes")) <= MOST_IGNORED


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def f(a: Any, *b: Any, c: Any = 1, **d: Any) -> Any: ...", 5),
        ("class A:\n    async def f(self, a: Any | None) -> int: ...", 1),
        ("def f(a: typing.Any): ...", 1),
        ("def f(a: object, b: list[Any]) -> dict[str, Any]:\n    c: Any = 1", 0),
    ],
)
def test_any_is_counted_where_it_says_nothing(source, count):
    assert count_any(source) == count
