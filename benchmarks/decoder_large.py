"""A decoder of 0.6 billion parameters from module to package: memory at the peak, and the time.

    python -m benchmarks.decoder_large [--layers 28] [--json]

The sizes are those of Qwen3-0.6B, 28 layers, 1,024 wide, 151,936 tokens in one table; weights are
random. ``export_decoder`` runs in a process of its own, once for ``decode`` alone (one conversion)
and once for ``decode`` and ``prefill``. The peak is the largest resident memory of the second, the
model's float32 weights included; the time is the processor's, of the second over the first.

Exit codes: 0 every limit is kept, 1 one is missed, 2 there is too little free memory to try.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import click
import psutil

from benchmarks.decoder_cost import CONTEXT, PREFILL, Point, build, table
from lowering.cli.common import (
    EXIT_CHECK_FAILED,
    EXIT_USER_ERROR,
    guarded,
    json_option,
    print_json,
    stdout_console,
)

_VOCABULARY = 151_936
# The peak over the weights in float32, and bytes besides; the time over that of one function.
_PEAK, _BESIDE, _TIME = 2.5, 0.5e9, 2.2
_NEEDED = 7e9


def measured(layers: int, prefill: int) -> dict[str, float]:
    """Processor seconds of an export in this process, its peak, and bytes of the weights."""
    from lowering.generation import export_decoder

    model = build(num_hidden_layers=layers, vocab_size=_VOCABULARY)
    weights = sum(4 * parameter.numel() for parameter in model.parameters())
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        export_decoder(model, Path(folder) / "large", context=CONTEXT, prefill=prefill)
    seconds = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux
    return {"seconds": seconds, "peak": peak, "weights": weights}


@click.command(help=__doc__)
@click.option("--layers", type=click.IntRange(min=1), default=28, show_default=True)
@click.option("--measure", type=int, hidden=True, help="Print measured() with so long a prefill.")
@json_option
@guarded
def main(layers: int, measure: int | None, as_json: bool) -> None:
    """See the module."""
    if measure is not None:
        click.echo(json.dumps(measured(layers, measure)))
        return
    free = psutil.virtual_memory().available
    if free < _NEEDED:
        click.echo(f"{_NEEDED:.1g} bytes of free memory are needed, {free:.2g} are there", err=True)
        sys.exit(EXIT_USER_ERROR)
    one, both = (_in_a_process(layers, prefill) for prefill in (0, PREFILL))
    share = (both["peak"] - _BESIDE) / both["weights"]
    points = [
        Point(f"{layers} layers, two functions", "peak / float32", share, _PEAK),
        Point(
            f"{layers} layers, two functions", "time / one", both["seconds"] / one["seconds"], _TIME
        ),
    ]
    if as_json:
        print_json([{**asdict(point), "kept": point.kept} for point in points])
    else:
        stdout_console().print(table(points))
        click.echo(f"{one['seconds']:.0f} s and {both['seconds']:.0f} s of one processor")
    sys.exit(0 if all(point.kept for point in points) else EXIT_CHECK_FAILED)


def _in_a_process(layers: int, prefill: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.decoder_large"]
    command += ["--layers", str(layers), "--measure", str(prefill)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
