"""Sound models and packages with calls that cannot be done: outputs and options."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from benchmarks.hostile.case import OUTPUT, Case

Make = Callable[[Path], object]

_MODEL = """\
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.LayerNorm(32))
    return net.eval(), (torch.ones(1, 64),)
"""
_ODD = (
    *("with space.mlpackage", "ü-ñ-模型.mlpackage", "[bold]x[/bold].mlpackage", "-dash.mlpackage"),
    *("a'b\"c.mlpackage", "%s{0}.mlpackage", "new\nline.mlpackage"),
)
_BAD = (
    *("no/such/a.mlpackage", f"{OUTPUT}/a.txt", "x" * 300 + ".mlpackage", "", "."),
    *("/", f"{OUTPUT}/a.mlmodel", "/proc/a.mlpackage", "a\udcff.txt"),
)


def cases(sound: Mapping[str, Path]) -> Iterator[Case]:
    """Calls of every verb."""
    package = sound["dense"]
    yield from _outputs()
    yield from _options(package)


def case(
    kind: str,
    name: str,
    arguments: tuple[str, ...],
    *makes: Make,
    names: tuple[str, ...] = (),
    refused: bool = True,
) -> Case:
    """A call in a folder with a sound ``model.py``, and with what ``makes`` write."""

    def make(folder: Path) -> None:
        (folder / "model.py").write_text(_MODEL)
        for one in makes:
            one(folder)

    return Case(kind, name, arguments, make, names, refused)


def package_in(package: Path) -> Make:
    """Copies ``package`` as ``net.mlpackage``."""
    return lambda folder: shutil.copytree(package, folder / "net.mlpackage")


def file_in(name: str, content: str | bytes) -> Make:
    """Writes a file."""
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(data)


def _outputs() -> Iterator[Case]:
    kind = "outputs"
    convert = ("convert", "model.py:make", "-o")
    taken = file_in(f"{OUTPUT}/a.mlpackage", "mine")
    yield case(
        kind,
        "a file stands there",
        (*convert, f"{OUTPUT}/a.mlpackage"),
        taken,
        names=("a.mlpackage",),
    )
    folder = f"{OUTPUT}/b.mlpackage"
    yield case(
        kind,
        "a folder stands there",
        (*convert, folder),
        lambda f: (f / folder / "x").mkdir(parents=True),
        names=("b.mlpackage",),
    )
    yield case(
        kind,
        "in a file",
        (*convert, f"{OUTPUT}/a.mlpackage/b.mlpackage"),
        taken,
        names=("a.mlpackage",),
    )
    yield case(
        kind,
        "a link to nothing",
        (*convert, f"{OUTPUT}/l.mlpackage"),
        lambda f: (f / OUTPUT / "l.mlpackage").symlink_to("nowhere"),
        refused=False,
    )
    circle = partial(_circle, "c.mlpackage")
    yield case(kind, "a link to itself", (*convert, f"{OUTPUT}/c.mlpackage"), circle, refused=False)
    for name in _BAD:
        yield case(kind, f"named {name[:20]!r}", (*convert, name))
    for name in _ODD:
        yield case(kind, f"named {name!r}", (*convert, f"{OUTPUT}/{name}"), refused=False)
    optimize = ("optimize", "model.py:make", "-o")
    for name in ("no/such/a.pt2", f"{OUTPUT}/a.txt", "/dev/null", "x" * 300 + ".pt2", f"{OUTPUT}"):
        yield case(kind, f"program {name[:20]!r}", (*optimize, name))
    export = ("export", "model.py:make", "-o")
    for name in ("no/such/net", "/dev/null", "x" * 300, OUTPUT + "/taken"):
        yield case(
            kind, f"folder {name[:20]!r}", (*export, name), file_in(f"{OUTPUT}/taken", "mine")
        )
    report = ("report", "net.mlpackage", "-o")
    for name in ("no/such/a.html", "/dev/null/a.html", "x" * 300 + ".html", OUTPUT):
        yield case(kind, f"report {name[:20]!r}", (*report, name))
    predict = ("predict", "net.mlpackage", "--output-dir")
    for name in ("model.py", "model.py/x", "x" * 300, "/proc/nowhere"):
        yield case(kind, f"arrays {name[:20]!r}", (*predict, name))


def _circle(name: str, folder: Path) -> None:
    (folder / OUTPUT / name).symlink_to(name)


_OPTIONS: tuple[tuple[str, ...], ...] = (
    ("plan", "net.mlpackage", "--chip", "M99"),
    ("plan", "net.mlpackage", "--chip", ""),
    ("plan", "net.mlpackage", "--compute-units", "gpu"),
    ("plan", "net.mlpackage", "--compute-units", "cpu-and-gpu"),
    ("plan", "net.mlpackage", "--function", "nope"),
    ("plan", "net.mlpackage", "--top", "0"),
    ("plan",),
    ("predict", "net.mlpackage", "--function", "nope"),
    ("predict", "net.mlpackage", "--steps", "0"),
    ("predict", "net.mlpackage", "--run-as", "fp8"),
    ("predict", "net.mlpackage", "--max-turns", "-1"),
    ("predict", "net.mlpackage", "--seed", "-1"),
    ("predict", "net.mlpackage", "--seed", "x"),
    ("check", "model.py:make", "--chip", "Z1"),
    ("check", "model.py:make", "--fail-on", "never-ever"),
    ("check", "model.py:make", "--deployment-target", "ios99"),
    ("convert", "model.py:make"),
    ("convert", "model.py:make", "-o", "a.mlpackage", "--precision", "int4"),
    ("convert", "model.py:make", "-o", "a.mlpackage", "--attention", "none"),
    ("convert", "model.py:make", "-o", "a.mlpackage", "--form", "a=b"),
    ("convert", "model.py:make", "-o", "a.mlpackage", "--form", "nothing"),
    ("convert", "model.py:make", "-o", "a.mlpackage", "--sizes", "n=1,2"),
    ("convert", "model.py:make", "-o", "a.mlpackage", "--sizes", "n=x"),
    ("convert", "model.py:make", "-o", "a.mlpackage", "--no-optimize", "--attention", "split"),
    ("optimize", "model.py:make", "--attention", "none"),
    ("ablate", "model.py:make", "--passes", "no_such_pass", "--jobs", "1", "--cache", OUTPUT),
    ("ablate", "model.py:make", "--format", "pdf"),
    ("tune", "model.py:make", "--by", "weight"),
    ("tune", "model.py:make", "--bound", "0"),
    ("compare", "net.mlpackage", "nowhere.mlpackage"),
    ("compare", "net.mlpackage", "model.py"),
    ("compare", "net.mlpackage"),
    ("report", "nowhere.mlpackage"),
    ("report", "net.mlpackage", "--format", "pdf"),
    ("report", "net.mlpackage", "--chip", "M99", "-o", f"{OUTPUT}/a.html"),
    ("verify", "net.mlpackage", "nowhere.py:make"),
    ("verify", "nowhere.mlpackage", "model.py:make"),
    ("verify", "model.py", "model.py:make"),
    ("verify", "net.mlpackage", "model.py:make", "--metric", "best"),
    ("verify", "net.mlpackage", "model.py:make", "--metric", "boxes"),
    ("verify", "net.mlpackage", "model.py:make", "--threshold", "-1"),
    ("verify", "net.mlpackage", "model.py:make", "--pictures", "nowhere"),
    ("explain", "no-such-rule"),
    ("completion", "klingon"),
    ("generate", "net.mlpackage", "--ids", "1,2"),
    ("generate", "net.mlpackage", "--ids", "x"),
    ("generate", "nowhere.mlpackage", "--ids", "1"),
    ("export-llm", "model.py:make", "-o", "a.mlpackage", "--context", "32"),
    ("export-llm", "model.py:make", "-o", "a.mlpackage", "--context", "zero"),
    ("export", "model.py:make", "-o", "net", "--image", "nothing"),
    ("export", "model.py:make", "-o", "net", "--mean", "a,b"),
    ("export", "model.py:make", "-o", "net", "--labels", "nowhere.txt", "--task", "classify"),
    ("export", "model.py:make", "-o", "net", "--accept", "best"),
    ("no-such-verb",),
    ("plan", "net.mlpackage", "--no-such-option"),
)


def _options(package: Path) -> Iterator[Case]:
    for arguments in _OPTIONS:
        yield case("options", " ".join(arguments)[:60], arguments, package_in(package))
