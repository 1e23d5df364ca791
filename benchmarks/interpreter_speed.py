"""The interpreter's time and memory beside eager torch: two models, and single operators.

    python -m benchmarks.interpreter_speed [--threads 2] [--runs 15] [--json]
    python -m benchmarks.interpreter_speed --only WORD   # rows of operators whose name holds it

Each model has random weights in the architecture of its family, is converted to fp16 without ANE
passes, saved and loaded. Eager torch runs the original in fp32. Calls alternate, so that what else
the machine does meets both alike; the ratio is that of the medians. Memory is what a process that
only loads the package and predicts adds at its peak over one that has imported the interpreter.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.interpreter_operators import rows, table
from lowering.conversion.converter import convert
from lowering.reference import load
from lowering.reference.program import Function, Value

_TARGET_RATIO = 1.15

# Runs in a fresh process: what loading and predicting add to its resident memory at the peak.
# Linux only; resource.getrusage would count the parent's peak.
_MEMORY_SCRIPT = """
import re, sys
from pathlib import Path
import numpy as np
import torch
from lowering.reference import load

def resident(field):
    status = Path("/proc/self/status").read_text()
    return int(re.search(field + r":\\s+(\\d+) kB", status)[1]) * 1024

torch.set_num_threads(int(sys.argv[3]))
inputs = dict(np.load(sys.argv[2]))
# Kernels are loaded from libtorch on first use; their code is not the model's memory.
x = torch.randn(1, 16, 64, 64)
torch.nn.functional.conv2d(x, torch.randn(32, 16, 3, 3), torch.randn(32), padding=1)
y = torch.nn.functional.linear(torch.randn(128, 256), torch.randn(256, 256), torch.randn(256))
torch.nn.functional.layer_norm(torch.nn.functional.gelu(y).softmax(-1), (256,)).half().float()
Path("/proc/self/clear_refs").write_text("5")  # restarts the peak from here
before = resident("VmRSS")
model = load(sys.argv[1])
model(inputs)
model(inputs)
print(resident("VmHWM") - before)
"""


@dataclass(frozen=True)
class Measurement:
    """One model's figures, *measured* on this machine.

    Attributes:
        model: which.
        eager_ms: median milliseconds of a call in eager torch, fp32.
        interpreter_ms: median milliseconds of a call in the interpreter, fp16 program.
        ratio: the latter over the former.
        load_ms: milliseconds to load the package.
        weights_mb: size of the package's weights file, megabytes.
        activations_mb: largest sum of values alive at once in the program, as declared, megabytes.
        peak_mb: what loading and predicting added to the process at its peak, megabytes.
        max_abs_error: largest difference of the outputs from eager torch.
    """

    model: str
    eager_ms: float
    interpreter_ms: float
    ratio: float
    load_ms: float
    weights_mb: float
    activations_mb: float
    peak_mb: float
    max_abs_error: float

    @property
    def allowed_mb(self) -> float:
        """What the peak may be: twice the weights file, and the activations."""
        return 2 * self.weights_mb + self.activations_mb


def distilbert() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """DistilBERT, 6 layers, 128 tokens."""
    from transformers import DistilBertConfig, DistilBertModel

    model = DistilBertModel(DistilBertConfig()).eval()
    ids = torch.randint(0, model.config.vocab_size, (1, 128), dtype=torch.int32)
    return model, {"input_ids": ids}


def resnet50() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """ResNet-50, one image of 224 x 224."""
    from transformers import ResNetConfig, ResNetForImageClassification

    model = ResNetForImageClassification(ResNetConfig()).eval()
    return model, {"pixel_values": torch.randn(1, 3, 224, 224)}


MODELS: dict[str, Callable[[], tuple[torch.nn.Module, dict[str, torch.Tensor]]]] = {
    "DistilBERT-6L": distilbert,
    "ResNet-50": resnet50,
}


class _First(torch.nn.Module):
    """The first output of a Hugging Face model, as a tensor."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**inputs, return_dict=False)[0]


def measure(name: str, runs: int, threads: int) -> Measurement:
    """Figures of the model ``name``."""
    torch.manual_seed(0)
    module, tensors = MODELS[name]()
    eager = _First(module)
    with tempfile.TemporaryDirectory() as directory, torch.inference_mode():
        path = Path(directory) / "model.mlpackage"
        with torch.inference_mode(mode=False):
            convert(eager, (), kwargs=tensors).save(str(path))
        start = time.perf_counter()
        loaded = load(path)
        load_ms = (time.perf_counter() - start) * 1e3
        arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
        ours = next(iter(loaded(arrays).values()))
        theirs = eager(**tensors).numpy()
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(runs):
            times[0].append(_milliseconds(lambda: eager(**tensors)))
            times[1].append(_milliseconds(lambda: loaded(arrays)))
        eager_ms, interpreter_ms = (statistics.median(item) for item in times)
        np.savez(str(Path(directory) / "inputs.npz"), allow_pickle=False, **arrays)
        weights = sum(file.stat().st_size for file in path.rglob("*.bin"))
        return Measurement(
            model=name,
            eager_ms=eager_ms,
            interpreter_ms=interpreter_ms,
            ratio=interpreter_ms / eager_ms,
            load_ms=load_ms,
            weights_mb=weights / 1e6,
            activations_mb=_activation_bytes(loaded.program) / 1e6,
            peak_mb=_peak_mb(path, Path(directory) / "inputs.npz", threads),
            max_abs_error=float(np.abs(ours - theirs).max()),
        )


def _activation_bytes(function: Function) -> int:
    """Largest sum of values alive at once, in their declared types."""
    sizes = dict(enumerate(_value_bytes(item) for item in function.inputs))
    alive = peak = sum(sizes.values())
    for step in function.body.steps:
        for target, value in zip(step.targets, step.op.outputs, strict=True):
            sizes[target] = _value_bytes(value)
            alive += sizes[target]
        peak = max(peak, alive)
        alive -= sum(sizes[index] for index in step.free)
    return peak


def _value_bytes(value: Value) -> int:
    if value.dtype is None or value.shape is None:
        return 0
    return math.prod(value.shape) * value.dtype.bits // 8


def _milliseconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def _peak_mb(package: Path, inputs: Path, threads: int) -> float:
    result = subprocess.run(
        [sys.executable, "-c", _MEMORY_SCRIPT, str(package), str(inputs), str(threads)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(result.stdout.split()[-1]) / 1e6


@click.command()
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--runs", type=int, default=15, show_default=True)
@click.option("--model", "names", multiple=True, type=click.Choice(list(MODELS)))
@click.option("--only", help="No models, and of the operators those whose name holds this.")
@click.option("--json", "as_json", is_flag=True)
def main(threads: int, runs: int, names: tuple[str, ...], only: str | None, as_json: bool) -> None:
    """Measure the interpreter's time and memory beside eager torch; 1 where a target is missed."""
    torch.set_num_threads(threads)
    models = names or (MODELS if only is None else ())
    results = [measure(name, runs, threads) for name in models]
    operators = [] if names else rows(runs, only or "")
    if as_json:
        found = {"threads": threads, "results": [asdict(r) for r in results]}
        click.echo(json.dumps({**found, "operators": [asdict(timed) for timed in operators]}))
    for result in results if not as_json else ():
        click.echo(
            f"{result.model}: eager {result.eager_ms:.1f} ms, interpreter "
            f"{result.interpreter_ms:.1f} ms, ratio {result.ratio:.2f} "
            f"(target {_TARGET_RATIO:g}); load {result.load_ms:.0f} ms; weights "
            f"{result.weights_mb:.1f} MB, activations {result.activations_mb:.1f} MB, peak "
            f"{result.peak_mb:.1f} MB (target {result.allowed_mb:.1f}); "
            f"max error {result.max_abs_error:.2g}"
        )
    if operators and not as_json:
        click.echo(table(operators))
    if any(timed.missed for timed in operators):
        raise SystemExit(1)
    if any(r.ratio > _TARGET_RATIO or r.peak_mb > r.allowed_mb for r in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
