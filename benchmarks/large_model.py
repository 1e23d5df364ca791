"""A decoder of 1.5 billion parameters from module to package: memory at the peak, and the time.

28 layers, 1,536 wide, a vocabulary of 151,936; random bfloat16 weights, made on the fly. The model
is made, optimized, converted and saved in a process of its own, whose largest resident memory is
what counts. Nothing is run; the package is written to the temporary folder and removed.

Exit codes: 0 the peak is within the target, 1 it is not, 2 there is too little free memory to try.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowering.cli.common import EXIT_CHECK_FAILED, EXIT_USER_ERROR, guarded, json_option, print_json

LAYERS, WIDTH, INNER, HEADS, GROUPS, VOCABULARY = 28, 1536, 8960, 12, 2, 151_936
TOKENS = 64
T = TypeVar("T")
TARGET_GB = 9.0
# Weights in bfloat16, in float32 and in float16 (3, 6 and 3 GB), and what else may be held.
NEEDED_GB = 15.0


class Layer(nn.Module):
    """Attention with shared keys and values, and a gated product."""

    def __init__(self) -> None:
        super().__init__()
        size = WIDTH // HEADS
        self.before, self.between = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.query, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
        self.key, self.value = (nn.Linear(WIDTH, GROUPS * size) for _ in range(2))
        self.gate, self.up = (nn.Linear(WIDTH, INNER, bias=False) for _ in range(2))
        self.down = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, S, C) to the same; ``cos`` and ``sin`` are (S, C / heads)."""
        y = self.before(x)
        query, key, value = (
            part(y).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        query, key = (part * cos + _turned(part) * sin for part in (query, key))
        key, value = (part.repeat_interleave(HEADS // GROUPS, 1) for part in (key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        y = self.between(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def _turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


class Decoder(nn.Module):
    """Token ids (1, 64) to the logits of the last token (1, vocabulary)."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        """See the class."""
        x = self.table(ids)
        size = WIDTH // HEADS
        steps = 1e6 ** (-torch.arange(0, size, 2) / size)
        angles = torch.outer(torch.arange(TOKENS).float(), steps).repeat(1, 2)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.linear(self.norm(x)[:, -1], self.table.weight)


def decoder() -> Decoder:
    """The model in bfloat16; no weight is ever held in another type."""
    with torch.device("meta"):
        model = Decoder().to(torch.bfloat16)
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for weight in model.parameters():
            weight.uniform_(-0.02, 0.02)
    return model.eval()


def measured() -> dict[str, float]:
    """Seconds of each stage, the peak of this process and the package's size."""
    import passes
    from lowering import convert, save

    seconds: dict[str, float] = {}

    def timed(name: str, call: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = call()
        seconds[name] = time.perf_counter() - start
        return result

    def optimized_decoder() -> passes.OptimizedModel:
        model = decoder()  # nothing else holds it: it goes when the program has its weights
        return passes.optimize_for_ane(model, (torch.zeros(1, TOKENS, dtype=torch.int32),))

    optimized = timed("make and optimize", optimized_decoder)
    parameters = sum(weight.numel() for weight in optimized.program.state_dict.values())
    converted = timed("convert", lambda: convert(optimized, skip_model_load=True))
    with tempfile.TemporaryDirectory() as folder:
        package = timed("save", lambda: save(converted, Path(folder) / "decoder.mlpackage"))
        size = sum(file.stat().st_size for file in package.rglob("*") if file.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux
    return {
        "parameters": parameters,
        "package_gb": size / 1e9,
        "peak_gb": peak / 1e9,
        **{f"{name}, seconds": taken for name, taken in seconds.items()},
    }


@click.command(help=__doc__)
@click.option("--measure", is_flag=True, hidden=True, help="Print measured(), as JSON.")
@json_option
@guarded
def main(measure: bool, as_json: bool) -> None:
    """See the module."""
    if measure:
        click.echo(json.dumps(measured()))
        return
    free = psutil.virtual_memory().available / 1e9
    if free < NEEDED_GB:
        click.echo(f"{NEEDED_GB:.0f} GB of free memory are needed, {free:.0f} are there", err=True)
        sys.exit(EXIT_USER_ERROR)
    command = [sys.executable, "-m", "benchmarks.large_model", "--measure"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(result.stdout.splitlines()[-1])
    if as_json:
        print_json({**found, "target_gb": TARGET_GB})
    else:
        for name, value in found.items():
            click.echo(f"{name:28s}{value:,.1f}")
        click.echo(f"{'target_gb':28s}{TARGET_GB:,.1f}")
    if found["peak_gb"] > TARGET_GB:
        sys.exit(EXIT_CHECK_FAILED)


if __name__ == "__main__":
    main()
