"""Files that calls name: arrays and pictures for inputs, JSON and Python of options, contracts."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.hostile.calls import case, file_in, package_in
from benchmarks.hostile.case import MARKER, OUTPUT, Case


def cases(sound: Mapping[str, Path]) -> Iterator[Case]:
    """Calls with files that are damaged or something else."""
    yield from _given(sound["dense"])
    yield from _files(sound["dense"])


def _given(package: Path) -> Iterator[Case]:
    """Values and files for inputs."""
    arrays: Mapping[str, bytes] = {
        "empty": b"",
        "no array": b"not an array",
        "cut": _npy(np.ones((1, 64)))[:100],
        "a pickle": pickle.dumps([1, 2]),
        "of text": _npy(np.array(["a"])),
        "of another shape": _npy(np.ones((2, 3))),
        "complex": _npy(np.ones((1, 64), dtype=np.complex64)),
        "with code": _npy_with_code(),
        "of a huge shape": _npy(np.ones(1)).replace(b"(1,)", b"(9999999999999,)"),
    }
    for name, data in arrays.items():
        call: tuple[str, ...] = ("predict", "net.mlpackage", "--input", "input=x.npy")
        makes = (package_in(package), file_in("x.npy", data))
        yield case("arrays given", name, call, *makes, names=("input",))
        call = ("verify", "net.mlpackage", "model.py:make", "--inputs", "x.npz")
        stored = data if name in ("empty", "no array", "cut") else _npz(data)
        yield case(
            "arrays given",
            f"{name}, in an archive",
            call,
            package_in(package),
            file_in("x.npz", stored),
        )
    for word in (
        "input",
        "other=1",
        "input=nowhere.npy",
        "input=x.png",
        "input=",
        "input=one",
        "=1",
    ):
        call = ("predict", "net.mlpackage", "--input", word)
        yield case(
            "arrays given", word, call, package_in(package), file_in("x.png", b"\x89PNG no picture")
        )


_DOCUMENTS = (
    *("", "{", "[]", "null", "3", '"text"', '{"a": 1}', '[{"name": "no_such_pass"}]', "[1]"),
    *("[" * 50_000, '[["split_attention", 3]]', '{"passes": [{"pass": 3}]}', "\xff\x00"),
)


def _files(package: Path) -> Iterator[Case]:
    """JSON and Python that options name, and damaged contracts."""
    call: tuple[str, ...]
    for text in _DOCUMENTS:
        shown = repr(text[:24])
        data = file_in("a.json", text.encode("latin-1"))
        call = ("convert", "model.py:make", "-o", f"{OUTPUT}/a.mlpackage", "--pipeline", "a.json")
        yield case(
            "option files", f"pipeline {shown}", call, data, names=("a.json",), refused=text != "[]"
        )
        call = ("plan", "net.mlpackage", "--planned", "a.json")
        yield case(
            "option files", f"planned {shown}", call, package_in(package), data, names=("a.json",)
        )
        call = ("report", "net.mlpackage", "-o", f"{OUTPUT}/a.html", "--ablation", "a.json")
        yield case(
            "option files", f"ablation {shown}", call, package_in(package), data, names=("a.json",)
        )
        for call in (("plan", "net"), ("convert", "net", "-o", f"{OUTPUT}/a.mlpackage")):
            yield case("contracts", shown, call, partial(_contract, text), names=("contract.json",))
    sources = {
        "raises": "raise RuntimeError('no')", "ends": "import sys; sys.exit(5)", "nothing": "",
        "a number": "Mine = 3", "a class": "class Mine: pass", "no Python": "class Mine(:",
    }  # fmt: skip
    for name, source in sources.items():
        data = file_in("mine.py", source)
        for option in ("--with-pass", "--composites"):
            call = (
                "convert",
                "model.py:make",
                "-o",
                f"{OUTPUT}/a.mlpackage",
                option,
                "mine.py:Mine",
            )
            yield case("option files", f"{option} {name}", call, data, names=("mine.py",))


def _contract(text: str, folder: Path) -> None:
    (folder / "net").mkdir()
    (folder / "net" / "contract.json").write_bytes(text.encode("latin-1"))


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


class _Opens:
    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (MARKER, "w")


def _npy_with_code() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([_Opens()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _npz(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("input.npy", data)
    return buffer.getvalue()
