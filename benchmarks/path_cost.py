"""What the whole path costs beside the whole of stock coremltools.

* path: (``optimize_for_ane`` + ``convert`` + ``save``) over (``torch.jit.trace`` + ``ct.convert`` +
  ``save``) of the same module, alternating in one process; the ratio is that of the medians. Text
  models are given a ready mask, which stock needs.
* convert's memory: the most that ``convert`` adds to the resident memory, in a process of its own,
  over the fp16 weights.
* check: ``check`` over trace and stock's convert.
* verify: of a package that passes.
* imports: of a fresh process, from its start to its end.

Seconds are those of one thread on the processor (imports: of the process), with one thread, so
that other work on the machine counts for little. Targets are what we hold ourselves to.

Exit codes: 0 every target is met, 1 one is missed.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from lowering.cli.common import (
    EXIT_CHECK_FAILED,
    guarded,
    json_option,
    print_json,
    stdout_console,
    step,
)

if TYPE_CHECKING:
    from torch import nn

NARROW = {"width": 96, "heads": 12}  # heads as in the real width: they decide the graph's size
FP16_BYTES = 2


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        name: what was measured.
        ours: seconds, or MB.
        beside: what it is held against, in the same unit; ``None`` where it stands alone.
        target: the largest allowed ratio, or the largest allowed seconds.
        unit: ``s`` or ``MB``.
    """

    name: str
    ours: float
    beside: float | None
    target: float
    unit: str = "s"

    @property
    def found(self) -> float:
        """What the target limits."""
        return self.ours if self.beside is None else self.ours / self.beside

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.found <= self.target


def distilbert(layers: int = 6, **narrow: int) -> tuple[Any, tuple[Any, ...]]:
    """DistilBERT, 128 tokens, with a ready mask, and its inputs."""
    from benchmarks import ports, stock

    model, inputs = ports.distilbert(layers, **narrow)
    call = inputs()
    return stock.ReadyMask(model).eval(), (
        call["input_ids"],
        stock.additive_mask(call["attention_mask"]),
    )


def vit_base() -> tuple[Any, tuple[Any, ...]]:
    """ViT-base with 12 layers, 224 x 224 pixels, and its input."""
    import torch
    from transformers import ViTConfig, ViTModel

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = ViTModel(ViTConfig(), add_pooling_layer=False)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            """Last hidden state, float32 (B, 197, 768), of pixels (B, 3, 224, 224)."""
            return self.model(pixels, return_dict=False)[0]

    return Hidden().eval(), (torch.randn(1, 3, 224, 224),)


def resnet50() -> tuple[Any, tuple[Any, ...]]:
    """ResNet-50, 224 x 224 pixels, and its input."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = ResNetForImageClassification(ResNetConfig(num_labels=1000))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            """Logits, float32 (B, 1000), of pixels (B, 3, 224, 224)."""
            return self.model(pixels, return_dict=False)[0]

    return Logits().eval(), (torch.randn(1, 3, 224, 224),)


def yolov8n() -> tuple[Any, tuple[Any, ...]]:
    """YOLOv8n, 640 x 640 pixels, without suppression, and its input."""
    import torch

    from benchmarks.recipes import BoxesAlone
    from benchmarks.zoo.torchvision_python import importable_torchvision

    with importable_torchvision():
        from ultralytics.nn.tasks import DetectionModel

        model = DetectionModel("yolov8n.yaml", verbose=False)
    pixels = torch.rand(1, 3, 640, 640)
    boxes = BoxesAlone(model).eval()
    with torch.no_grad():
        boxes(pixels)  # the anchors of this size, which it makes once
    return boxes, (pixels,)


PATHS: dict[str, tuple[Callable[[], tuple[Any, tuple[Any, ...]]], float]] = {
    "DistilBERT, 6 layers": (distilbert, 0.6),
    "ViT-base, 12 layers": (vit_base, 0.8),
    "DistilBERT, 24 layers, 96 wide": (lambda: distilbert(24, **NARROW), 1.2),
    "ResNet-50": (resnet50, 0.8),
    "YOLOv8n": (yolov8n, 0.8),
}
MEMORY_TARGET, CHECK_TARGET, VERIFY_TARGET = 1.2, 0.8, 1.5
IMPORTS = {"predict": 2.0, "plan": 0.5}  # seconds
# Where the work of these verbs is: the public names import it when they are called.
HOMES = {"predict": "lowering.reference", "plan": "lowering.planner.placement"}


def path(name: str, runs: int) -> Figure:
    """Seconds of the whole path and of the whole of stock for one model."""
    make, target = PATHS[name]
    model, inputs = make()
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        _first_use(Path(folder))
        for _ in range(runs):
            theirs.append(seconds(lambda: _stock(model, inputs, Path(folder) / "stock.mlpackage")))
            ours.append(seconds(lambda: _ours(model, inputs, Path(folder) / "ours.mlpackage")))
    return Figure(f"path: {name}", statistics.median(ours), statistics.median(theirs), target)


def check(runs: int) -> Figure:
    """Seconds of ``check``, and of trace and stock's convert."""
    import lowering
    from benchmarks import stock

    model, inputs = distilbert()
    theirs = [seconds(lambda: stock.stock_convert(model, inputs)) for _ in range(runs)]
    ours = [seconds(lambda: lowering.check(model, inputs)) for _ in range(runs)]
    return Figure("check", statistics.median(ours), statistics.median(theirs), CHECK_TARGET)


def verify(runs: int) -> Figure:
    """Seconds of ``verify`` for a package that passes."""
    import lowering

    model, inputs = distilbert()
    with tempfile.TemporaryDirectory() as folder:
        package = _ours(model, inputs, Path(folder) / "ours.mlpackage")
        found = [seconds(lambda: _verified(lowering, package, model, inputs)) for _ in range(runs)]
    return Figure("verify that passes", statistics.median(found), None, VERIFY_TARGET)


def imports(verb: str) -> Figure:
    """Processor seconds of a process that imports one verb."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = f"from lowering import {verb}; import {HOMES[verb]}"
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Figure(f"import for {verb}", spent, None, IMPORTS[verb])


def memory() -> Figure:
    """What ``convert`` adds to the resident memory of a fresh process, over the fp16 weights."""
    command = [sys.executable, "-m", "benchmarks.path_cost", "--measure-memory"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    added, weights = json.loads(result.stdout.splitlines()[-1])
    return Figure("memory that convert adds / fp16 weights", added, weights, MEMORY_TARGET, "MB")


def measured_memory() -> tuple[float, float]:
    """The figures of :func:`memory`, of this process: MB added, MB of the weights in fp16."""
    import passes
    from lowering import convert
    from lowering.support.peak_memory import PeakMemory

    model, inputs = distilbert()
    with tempfile.TemporaryDirectory() as folder:
        _first_use(Path(folder))
    optimized = passes.optimize_for_ane(model, inputs)
    with PeakMemory() as peak:
        kept = convert(optimized, skip_model_load=True)
    assert kept is not None  # alive until here, as it is for the user
    weights = sum(p.numel() for p in model.parameters()) * FP16_BYTES
    return peak.added_bytes / 1e6, weights / 1e6


def seconds(call: Callable[[], object]) -> float:
    """Seconds of this thread on the processor."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def _ours(model: nn.Module, inputs: tuple[Any, ...], package: Path) -> Path:
    import passes
    from lowering import convert, save

    optimized = passes.optimize_for_ane(model, inputs)
    return save(convert(optimized, skip_model_load=True), package)


def _stock(model: nn.Module, inputs: tuple[Any, ...], package: Path) -> None:
    from benchmarks import stock

    stock.stock_convert(model, inputs).mlmodel.save(str(package))


def _first_use(folder: Path) -> None:
    """What torch and coremltools import and compile on their first use is no part of the cost."""
    import torch

    model, inputs = torch.nn.Linear(2, 2).eval(), (torch.randn(1, 2),)
    _stock(model, inputs, folder / "stock.mlpackage")
    _ours(model, inputs, folder / "ours.mlpackage")


def _verified(lowering: Any, package: Path, model: nn.Module, inputs: tuple[Any, ...]) -> None:
    if not lowering.verify(package, model, inputs):
        raise AssertionError("the package does not pass, and its time is no figure")


def table(figures: list[Figure]) -> Table:
    """One row for each figure."""
    shown = Table(box=None, pad_edge=False)
    for heading in ("", "found", "ours", "beside", "target", ""):
        shown.add_column(heading)
    for figure in figures:
        beside = "" if figure.beside is None else f"{figure.beside:.3g} {figure.unit}"
        shown.add_row(
            figure.name,
            f"{figure.found:.2f}" + (" s" if figure.beside is None else ""),
            f"{figure.ours:.3g} {figure.unit}",
            beside,
            f"≤ {figure.target:g}",
            "met" if figure.met else "[red]missed[/red]",
        )
    return shown


@click.command(help=__doc__)
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--only", default="", help="Only figures whose name contains this.")
@click.option("--measure-memory", is_flag=True, hidden=True, help="Print memory(), as JSON.")
@json_option
@guarded
def main(runs: int, only: str, measure_memory: bool, as_json: bool) -> None:
    """See the module."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if measure_memory:
        click.echo(json.dumps(measured_memory()))
        return
    work: dict[str, Callable[[], Figure]] = {
        **{f"import for {verb}": partial(imports, verb) for verb in IMPORTS},
        "memory that convert adds": memory,
        **{f"path: {name}": partial(path, name, runs) for name in PATHS},
        "check": lambda: check(runs),
        "verify": lambda: verify(runs),
    }
    figures = []
    for name, measure in work.items():
        if only in name:
            with step(f"Measuring {name}"):
                figures.append(measure())
            click.echo(f"{name} {'met' if figures[-1].met else 'MISSED'}", err=True)
    if as_json:
        print_json([{**asdict(f), "found": f.found, "met": f.met} for f in figures])
    else:
        stdout_console().print(table(figures))
    if not all(figure.met for figure in figures):
        sys.exit(EXIT_CHECK_FAILED)


if __name__ == "__main__":
    main()
