"""The repository as a whole: its top level, README.md, no traces of a machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from benchmarks import readme

ROOT = Path(__file__).parent.parent
TOP_LEVEL = {
    "pyproject.toml",
    "README.md",
    "passes",
    "frontend",
    "lowering",
    "tests",
    "benchmarks",
    "Makefile",
    "LICENSE",
    "findings",
}
# Absolute paths and addresses of whoever's machine a file was written on.
MACHINE = re.compile(
    r"(?<![\w.~<>-])/(?:work|tmp|root|home|Users|opt|mnt|private|scratch)/\w|"
    r"\b(?:localhost|127\.0\.0\.1)\b|(?:--|PIP_)(?:extra-)?(?:index-url|find-links)",
    re.IGNORECASE,
)
# Figures that README.md states outside a generated block: versions and sizes of what is asked for
# are fine, results are not.
RESULT = re.compile(r"\b\d[\d,.]*\s*(?:ops|transposes|reshapes|ms|MB|GB|seconds|×|%)(?!\w)")


def tracked() -> list[Path]:
    try:
        listing = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file()]


def texts() -> dict[Path, str]:
    found = {}
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data:
            found[path] = data.decode()
    return found


def test_top_level_is_fixed():
    names = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL
    assert {"pyproject.toml", "README.md", "Makefile", "LICENSE", ".ci"} <= names


def test_no_trace_of_a_machine():
    this = Path(__file__)
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path, text in texts().items()
        if path != this
        for match in MACHINE.finditer(text)
    ]
    assert found == []


@pytest.mark.parametrize("text", ["see /work/x", "'/tmp/a.py'", "--find-links x", "at localhost:1"])
def test_traces_are_found(text: str):
    assert MACHINE.search(text)


@pytest.mark.parametrize("text", ["a/tmp/b", "framework/x", "/usr/bin/env bash", "indexes"])
def test_other_words_are_left_alone(text: str):
    assert not MACHINE.search(text)


def test_ci_is_executable():
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_readme_results_are_generated():
    text = (ROOT / "README.md").read_text()
    blocks = readme.blocks(text)
    assert blocks, "README.md shows no result"
    for block in blocks:
        known = block.command == readme.ABOVE or block.command.split()[0] in readme.PROGRAMS
        assert known, block.command
        assert block.body.strip(), f"run `make readme`: nothing below {block.command}"
    assert RESULT.findall(readme.without_blocks(text)) == []


def test_readme_code_runs_and_prints_what_it_shows():
    text = (ROOT / "README.md").read_text()
    assert readme.refreshed(text, output=lambda command: "", only=readme.ABOVE) == text
    assert len(readme.run_python("```python\nprint(1)\n```\n")) == 1
