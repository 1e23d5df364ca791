"""Imports go one way, files stay readable, and no two files import each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("frontend", "passes", "lowering", "benchmarks")
MAX_LINES = 400
# The command line stands above all that it drives; only benchmarks may look into it.
CLI = "lowering.cli"


def source_files(root: Path) -> list[Path]:
    return sorted(path for layer in LAYERS for path in (root / layer).rglob("*.py"))


def module_name(root: Path, path: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, package: str) -> Iterator[tuple[str, int]]:
    """Every module that ``tree`` imports, at any depth, with its line.

    ``from a import b`` gives ``a.b``: ``b`` may be a module. ``package`` resolves relative ones.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, base]).rstrip(".")
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def package_of(root: Path, path: Path) -> str:
    name = module_name(root, path)
    return name if path.name == "__init__.py" else name.rpartition(".")[0]


def layer_violations(root: Path) -> list[str]:
    found = []
    for path in source_files(root):
        name = module_name(root, path)
        layer = LAYERS.index(name.split(".")[0])
        for imported, line in imports(ast.parse(path.read_text()), package_of(root, path)):
            top = imported.split(".")[0]
            if top == "tests" or (top in LAYERS and LAYERS.index(top) > layer):
                found.append(f"{path.relative_to(root)}:{line} imports {imported}")
            inside = LAYERS[layer] == "benchmarks" or f"{name}.".startswith(f"{CLI}.")
            if f"{imported}.".startswith(f"{CLI}.") and not inside:
                found.append(f"{path.relative_to(root)}:{line} imports {imported}")
    return found


def module_level(tree: ast.Module) -> ast.Module:
    """The statements that run on import: no function bodies, nothing for type checkers only."""

    class Prune(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    pruned: ast.Module = Prune().visit(tree)
    return pruned


def import_graph(root: Path) -> nx.DiGraph:
    names = {module_name(root, path) for path in source_files(root)}
    graph = nx.DiGraph()
    for path in source_files(root):
        tree = module_level(ast.parse(path.read_text()))
        for imported, _ in imports(tree, package_of(root, path)):
            # ``a.b.c`` is the file a/b/c.py, or the name c of a/b.py or a/b/__init__.py.
            target = imported if imported in names else imported.rpartition(".")[0]
            if target in names:
                graph.add_edge(module_name(root, path), target)
    return graph


def cycles(root: Path) -> list[list[str]]:
    graph = import_graph(root)
    components = [sorted(c) for c in nx.strongly_connected_components(graph) if len(c) > 1]
    return sorted([*components, *([n] for n in nx.nodes_with_selfloops(graph))])


def long_files(root: Path) -> list[str]:
    tests = sorted((root / "tests").rglob("*.py"))
    sizes = {path: len(path.read_text().splitlines()) for path in [*source_files(root), *tests]}
    return [f"{p.relative_to(root)}: {n} lines" for p, n in sizes.items() if n > MAX_LINES]


def test_layers_import_one_way():
    assert layer_violations(ROOT) == []


def test_no_import_cycles():
    assert cycles(ROOT) == []


def test_no_long_files():
    assert long_files(ROOT) == []


def test_every_layer_is_read():
    read = {path.relative_to(ROOT).parts[0] for path in source_files(ROOT)}
    assert read == set(LAYERS)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for layer in LAYERS:
        (tmp_path / layer).mkdir()
        (tmp_path / layer / "__init__.py").write_text("")
    (tmp_path / "lowering/cli").mkdir()
    (tmp_path / "lowering/cli/__init__.py").write_text("import passes\nimport frontend\n")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("passes/a.py", "from lowering.conversion.converter import convert"),
        ("frontend/a.py", "def f():\n    import passes"),
        ("lowering/cli/a.py", "import benchmarks.zoo"),
        ("lowering/a.py", "from lowering.cli import main"),
        ("lowering/a.py", "from .cli import main"),
        ("passes/a.py", "from tests.passes import util"),
    ],
)
def test_wrong_imports_are_found(tree: Path, file: str, text: str):
    assert layer_violations(tree) == []
    (tree / file).write_text(text)
    (violation,) = layer_violations(tree)
    assert violation.startswith(file)


def test_cycles_are_found(tree: Path):
    (tree / "passes/a.py").write_text("from passes import b")
    (tree / "passes/b.py").write_text("def f():\n    from passes.a import x")
    assert cycles(tree) == []
    (tree / "passes/b.py").write_text("from passes.a import x")
    assert cycles(tree) == [["passes.a", "passes.b"]]


def test_long_files_are_found(tree: Path):
    (tree / "passes/a.py").write_text("x = 1\n" * MAX_LINES)
    assert long_files(tree) == []
    (tree / "passes/a.py").write_text("x = 1\n" * (MAX_LINES + 1))
    assert long_files(tree) == ["passes/a.py: 401 lines"]
