"""Saved programs that are damaged, or ask for code: harmless code, which leaves a mark."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.hostile.case import MARKER, OUTPUT, Case

_NAME = "model.pt2"
_VERBS = ("check", "convert", "optimize")
# In the archive of torch.export.save.
_PROGRAM = "models/model.json"
_INPUTS = "data/sample_inputs/model.pt"

Members = dict[str, bytes]
_Document = dict[str, Any]


def build(path: Path) -> None:
    """Write a sound program at ``path``."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    torch.export.save(torch.export.export(module, (torch.ones(2, 8),)), path)


def cases(sound: Path, rng: np.random.Generator) -> Iterator[Case]:
    """Damage to the archive, to its members and to what they say; then code in it."""
    made = (*_archives(rng), *_members(), *_documents(), *_code())
    for number, (kind, name, damage) in enumerate(made):
        verb = _VERBS[number % len(_VERBS)]
        yield _case(kind, name, sound, damage, verb, refused=kind in ("code in a program",))


def _case(
    kind: str, name: str, sound: Path, damage: Callable[[bytes], bytes], verb: str, refused: bool
) -> Case:
    def make(folder: Path) -> None:
        (folder / _NAME).write_bytes(damage(sound.read_bytes()))

    output = ("-o", f"{OUTPUT}/net.mlpackage") if verb == "convert" else ()
    return Case(kind, name, (verb, _NAME, *output), make, (_NAME,), refused)


def _archives(rng: np.random.Generator) -> Iterator[tuple[str, str, Callable[[bytes], bytes]]]:
    kind = "damaged programs"
    for data in (b"", b"PK", b"no archive", b"\x80\x04N.", b"PK\x05\x06" + bytes(18)):
        yield kind, f"the file is {data[:10]!r}", partial(_replaced, data)
    yield kind, "a checkpoint", lambda _: _saved({"weight": torch.ones(2)})
    yield kind, "a zip of text", lambda _: _archive({"a.txt": b"text"})
    for _ in range(12):
        keep = float(rng.uniform(0, 0.99))
        yield kind, f"cut to {keep:.0%}", partial(_cut, keep)
    for _ in range(24):
        seed = int(rng.integers(2**31))
        yield kind, f"bytes flipped, {seed}", partial(_flipped, seed)


def _members() -> Iterator[tuple[str, str, Callable[[bytes], bytes]]]:
    kind = "members of a program"
    for part in (_PROGRAM, _INPUTS, "archive_format", "archive_version", "data/weights", "version"):
        yield kind, f"{part} missing", _edit(partial(_drop, part))
        for data in (b"", b"0", b"[]", b"null", b"\xff" * 9, b'{"a": 1}', b"999999"):
            yield (
                kind,
                f"{part} is {data!r}",
                _edit(partial(_put, part, data)),
            )


def _documents() -> Iterator[tuple[str, str, Callable[[bytes], bytes]]]:
    kind = "what a program says"
    changes: Mapping[str, Callable[[Any], object]] = {
        "a later schema": lambda d: d.__setitem__("schema_version", {"major": 99, "minor": 0}),
        "no schema": lambda d: d.pop("schema_version"),
        "no graph": lambda d: d["graph_module"].pop("graph"),
        "no signature": lambda d: d["graph_module"].pop("signature"),
        "no nodes": lambda d: d["graph_module"]["graph"]["nodes"].clear(),
        "an unknown operator": lambda d: _node(d).__setitem__("target", "torch.ops.no.such.op"),
        "a node without inputs": lambda d: _node(d)["inputs"].clear(),
        "a node twice": lambda d: d["graph_module"]["graph"]["nodes"].append(_node(d)),
        "values of no type": lambda d: d["graph_module"]["graph"]["tensor_values"].clear(),
        "other outputs": lambda d: d["graph_module"]["graph"]["outputs"].clear(),
        "an opset of the future": lambda d: d.__setitem__("opset_version", {"aten": 9999}),
        "a dialect": lambda d: d.__setitem__("dialect", "klingon"),
    }
    for name, change in changes.items():
        yield kind, name, _document(change)
    sizes = (-1, 1 << 40, 0, "four")
    for size in sizes:
        yield kind, f"a size of {size!r}", _document(partial(_sized, size))


def _code() -> Iterator[tuple[str, str, Callable[[bytes], bytes]]]:
    kind = "code in a program"
    for name, action in _ACTIONS.items():
        yield (
            kind,
            f"example inputs: {name}",
            _edit(partial(_put, _INPUTS, pickle.dumps(_Asks(*action)))),
        )
        yield (
            kind,
            f"example inputs of torch: {name}",
            _edit(partial(_put, _INPUTS, _saved(_Asks(*action)))),
        )
    expression = f"__import__('os').system('touch {MARKER}')"
    for size in (expression, f"open('{MARKER}', 'w')", f"(lambda: open('{MARKER}', 'w'))()"):
        yield kind, f"a size: {size[:16]}", _document(partial(_symbolic, size))
    for target in ("os.system", "torch.ops.aten.from_file.default", "builtins.exec", "torch.load"):
        yield (
            kind,
            f"an operator: {target}",
            _document(partial(_aimed, target)),
        )
    for name in (f"x); open('{MARKER}', 'w'); (", "x\nimport os", "x' + y"):
        yield kind, f"a name: {name[:8]!r}", _document(partial(_renamed, name))


class _Asks:
    """Unpickled, it calls a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call


_ACTIONS: Mapping[str, tuple[Any, ...]] = {
    "a file": (open, MARKER, "w"),
    "a command": (os.system, f"touch {MARKER}"),
    "a folder": (os.mkdir, MARKER),
    "source": (exec, f"open('{MARKER}', 'w')"),
    "a value of source": (eval, f"open('{MARKER}', 'w')"),
}


def _saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _archive(members: Members) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _edit(change: Callable[[Members], object]) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        change(members)
        return _archive(members)

    return damage


def _document(change: Callable[[Any], object]) -> Callable[[bytes], bytes]:
    def edit(members: Members) -> None:
        (name,) = _matching(members, _PROGRAM)
        document = json.loads(members[name])
        change(document)
        members[name] = json.dumps(document).encode()

    return _edit(edit)


def _matching(members: Members, part: str) -> list[str]:
    return [name for name in members if part in name]


def _drop(part: str, members: Members) -> None:
    for name in _matching(members, part):
        del members[name]


def _put(part: str, data: bytes, members: Members) -> None:
    for name in _matching(members, part):
        members[name] = data


def _flipped(seed: int, data: bytes) -> bytes:
    rng = np.random.default_rng(seed)
    content = np.frombuffer(data, np.uint8).copy()
    places = rng.integers(0, len(content), int(rng.integers(1, 5)))
    content[places] ^= rng.integers(1, 256, len(places)).astype(np.uint8)
    return content.tobytes()


def _replaced(data: bytes, _: bytes) -> bytes:
    return data


def _cut(keep: float, data: bytes) -> bytes:
    return data[: int(len(data) * keep)]


def _aimed(target: str, document: _Document) -> None:
    _node(document)["target"] = target


def _node(document: _Document) -> _Document:
    return document["graph_module"]["graph"]["nodes"][0]


def _values(document: _Document) -> _Document:
    return document["graph_module"]["graph"]["tensor_values"]


def _sized(size: object, document: _Document) -> None:
    for value in _values(document).values():
        value["sizes"][0] = {"as_int": size}


def _symbolic(expression: str, document: _Document) -> None:
    for value in _values(document).values():
        value["sizes"][0] = {"as_expr": {"expr_str": expression, "hint": {"as_int": 2}}}


def _renamed(name: str, document: _Document) -> None:
    values = _values(document)
    values[name] = values.pop(next(iter(values)))
    _node(document)["outputs"][0] = {"as_tensor": {"name": name}}
