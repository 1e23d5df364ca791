"""Packages whose files are damaged: manifests, truncations, flipped bytes, links, weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hostile.case import Case
from benchmarks.hostile.sound import MANIFEST, MODEL, WEIGHTS

Damage = Callable[[Path], object]

_POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
_VERBS = ("predict", "plan")
_NAME = "net.mlpackage"


def cases(sound: Mapping[str, Path], rng: np.random.Generator) -> Iterator[Case]:
    """Damage to files of packages, each with two verbs."""
    for kind, name, damage in (*_manifests(), *_files()):
        for verb in _VERBS:
            yield case(kind, name, sound["dense"], damage, verb, refused=True)
    for number in range(24):
        part = (MODEL, WEIGHTS, MANIFEST)[number % 3]
        keep = float(rng.uniform(0, 0.98))
        yield case(
            "truncated", f"{part.name} to {keep:.0%}", sound["dense"], _cut(part, keep),
            _VERBS[number // 3 % 2], refused=True,
        )  # fmt: skip
    names = list(sound)
    for number in range(60):
        part = (MODEL, MODEL, WEIGHTS, MANIFEST)[number % 4]
        base = "dense" if part is WEIGHTS else names[number % len(names)]
        seed = int(rng.integers(2**31))
        damage = _flip(part, seed)
        yield case(
            "bytes flipped", f"{part.name}, {seed}", sound[base], damage, _VERBS[number // 4 % 2]
        )


def case(
    kind: str, name: str, package: Path, damage: Damage, verb: str, refused: bool = False
) -> Case:
    """A copy of ``package``, damaged, given to ``verb``."""

    def make(folder: Path) -> None:
        shutil.copytree(package, folder / _NAME)
        damage(folder / _NAME)

    return Case(kind, f"{package.stem}: {name}", (verb, _NAME), make, (_NAME,), refused)


def _manifests() -> Iterator[tuple[str, str, Damage]]:
    texts = {
        "empty": "", "no JSON": "{", "a list": "[]", "null": "null", "a number": "1",
        "no entries": '{"rootModelIdentifier": "a"}',
        "entries a list": '{"rootModelIdentifier": "a", "itemInfoEntries": ["a"]}',
        "root a number": '{"rootModelIdentifier": 1, "itemInfoEntries": {}}',
        "root unknown": '{"rootModelIdentifier": "a", "itemInfoEntries": {}}',
        "entry null": '{"rootModelIdentifier": "a", "itemInfoEntries": {"a": null}}',
        "path a number": '{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": 3}}}',
        "deeply nested": "[" * 100_000, "an LFS pointer": _POINTER, "no text": "\udcff\udcfe",
    }  # fmt: skip
    for name, text in texts.items():
        yield "manifest", name, _write(MANIFEST, text)
    yield "manifest", "missing", _remove(MANIFEST)
    paths = (
        "../../../etc/passwd",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a\0b",
        "x" * 5000,
        "no/such",
        "~",
    )
    for path in paths:
        yield "leads out" if "/" in path else "manifest", f"path {path[:20]!r}", _root(path)


def _files() -> Iterator[tuple[str, str, Damage]]:
    for part in (MODEL, WEIGHTS):
        yield "missing", part.name, _remove(part)
        yield "empty", part.name, _write(part, "")
        yield "LFS pointer", part.name, _write(part, _POINTER)
        yield "folder for a file", part.name, _as_folder(part)
        yield "circle of links", part.name, _link(part, part.name)
        yield "leads out", f"link from {part.name}", _moved_out(part)
    yield "leads out", "link from the weights' folder", _moved_out(WEIGHTS.parent)
    yield "leads out", "link from the data's folder", _moved_out(Path("Data"))
    yield "missing", "everything", lambda package: shutil.rmtree(package)
    yield "empty", "the package", _emptied
    yield "text for a model", MODEL.name, _write(MODEL, "this is no model\n" * 10)
    for part in (MODEL, WEIGHTS, MANIFEST):
        yield "named pipe", part.name, _as_pipe(part)


def _write(part: Path, text: str) -> Damage:
    return lambda package: (package / part).write_bytes(text.encode("utf-8", "surrogateescape"))


def _remove(part: Path) -> Damage:
    return lambda package: (package / part).unlink()


def _as_folder(part: Path) -> Damage:
    def damage(package: Path) -> None:
        (package / part).unlink()
        (package / part).mkdir()

    return damage


def _emptied(package: Path) -> None:
    shutil.rmtree(package)
    package.mkdir()


def _as_pipe(part: Path) -> Damage:
    def damage(package: Path) -> None:
        (package / part).unlink()
        os.mkfifo(package / part)

    return damage


def _link(part: Path, to: str) -> Damage:
    def damage(package: Path) -> None:
        (package / part).unlink()
        (package / part).symlink_to(to)

    return damage


def _moved_out(part: Path) -> Damage:
    def damage(package: Path) -> None:
        elsewhere = package.parent / "elsewhere"
        (package / part).rename(elsewhere)
        (package / part).symlink_to(elsewhere)

    return damage


def _cut(part: Path, keep: float) -> Damage:
    def damage(package: Path) -> None:
        content = (package / part).read_bytes()
        (package / part).write_bytes(content[: int(len(content) * keep)])

    return damage


def _flip(part: Path, seed: int) -> Damage:
    def damage(package: Path) -> None:
        rng = np.random.default_rng(seed)
        content = np.frombuffer((package / part).read_bytes(), np.uint8).copy()
        places = rng.integers(0, len(content), int(rng.integers(1, 4)))
        content[places] ^= rng.integers(1, 256, len(places)).astype(np.uint8)
        (package / part).write_bytes(content.tobytes())

    return damage


def _root(path: str) -> Damage:
    def damage(package: Path) -> None:
        content: dict[str, Any] = json.loads((package / MANIFEST).read_text())
        content["itemInfoEntries"][content["rootModelIdentifier"]]["path"] = path
        (package / MANIFEST).write_text(json.dumps(content))

    return damage
