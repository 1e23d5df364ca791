"""The guides beside the code: what they name is there, what they show runs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GUIDES = [ROOT / layer / "README.md" for layer in ("frontend", "passes", "lowering")]
_CODE = re.compile(r"^```python\n(?P<code>.*?)^```$", re.S | re.M)
# Files and folders in backquotes; words in capitals stand for a name of the reader's.
_PATH = re.compile(r"`([\w/]+(?:\.py|\.json|/))`")


def named_paths(text: str) -> list[str]:
    return [path for path in _PATH.findall(text) if not re.search("[A-Z]{3,}", path)]


def missing(guide: Path) -> list[str]:
    """Paths that are neither in the guide's folder nor, in full, in the repository."""
    text = guide.read_text()
    rooms = [guide.parent, ROOT, *(p for p in guide.parent.iterdir() if p.is_dir())]
    return [path for path in named_paths(text) if not any((room / path).exists() for room in rooms)]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.parent.name)
def test_named_files_are_there(guide: Path):
    assert len(named_paths(guide.read_text())) >= 10
    assert missing(guide) == []


def unnamed(guide: Path) -> list[str]:
    """Rooms (folders with code) that the guide does not name; of the frontend, files as well."""
    text = guide.read_text()
    rooms = [room.parent.name + "/" for room in guide.parent.glob("*/__init__.py")]
    files = [p.name for p in guide.parent.glob("*.py")] if guide.parent.name == "frontend" else []
    return [n for n in sorted(rooms + files) if f"`{n}`" not in text and n != "__init__.py"]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.parent.name)
def test_rooms_are_named(guide: Path):
    assert unnamed(guide) == []


def test_unnamed_rooms_are_found(tmp_path: Path):
    for room in ("named", "forgotten"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").touch()
    (tmp_path / "README.md").write_text("`named/` is a room")
    assert unnamed(tmp_path / "README.md") == ["forgotten/"]


def test_missing_files_are_found(tmp_path: Path):
    (tmp_path / "there.py").touch()
    (tmp_path / "README.md").write_text("`there.py`, `room/FAMILY.py` and `gone.py`")
    assert missing(tmp_path / "README.md") == ["gone.py"]


@pytest.mark.parametrize("guide", GUIDES[1:], ids=lambda guide: guide.parent.name)
def test_examples_run(guide: Path, tmp_path: Path):
    blocks = _CODE.findall(guide.read_text())
    assert blocks
    for code in blocks:
        (tmp_path / "example.py").write_text(code)
        runpy.run_path(str(tmp_path / "example.py"), run_name="__main__")
