"""What an exported decoder costs: operators, bytes, bits, and a step of the interpreter.

    python -m benchmarks.decoder_cost [--only counts|sizes|compressed|step] [--json]

The decoder is a Qwen3 of two layers, 1,024 wide, 16 heads on 8 of 128, context 512, head and
embedding one table of 4,096 rows; random weights three times as large as transformers draws them.

* counts: of ``decode`` (1 token) and ``prefill`` (64), for each form of the cache that
  stays in the package; the price is the dispatcher's on an M4, *predicted*, in milliseconds. Limits
  are below what ports by hand have (181 and 222 operators, 12 and 9 transposes).
* sizes: the whole package over its weights in float16, each once; some bytes are allowed besides,
  for programs.
* compressed: the package over the one without, and how logits correlate with the model's own.
* step: processor time of one thread for ``decode`` in the interpreter over eager torch with a
  static cache, alternating; the ratio is that of the medians.

Exit codes: 0 every limit is kept, 1 one is missed.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
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


CONTEXT, PREFILL = 512, 64
CHIP = "M4"
# Metric to its limit, for one token and for a run of them.
DECODE: Mapping[str, float] = {
    "ops": 130,
    "transpose": 0,
    "reshape": 8,
    "scatter": 0,
    "states": 2,
    "off the ANE": 10,
    "price": 2.1,
}
PROMPT: Mapping[str, float] = {"ops": 150, "transpose": 4, "reshape": 10, "scatter": 0, "states": 2}
FORMS = (
    ("state", "inside"),
    ("state", "apart"),
    ("state-blend", "inside"),
    ("state-blend", "apart"),
)
# Bytes that programs may take beside the weights, and what a package may weigh over them.
_PROGRAMS = 300_000
_TWO_FUNCTIONS, _THREE_BUCKETS = 1.03, 1.06
# Rung to the largest share of the float16 package, and the least correlation of logits. Blocks of
# 16, since random weights have no structure that larger ones could use: at the default of 32 the
# logits of this model correlate by 0.896 (*measured*).
RUNGS: Mapping[str, tuple[float, float]] = {
    "int8": (0.62, 0.98),
    "pal6": (0.48, 0.97),
    "int4-block16": (0.40, 0.90),
}
_STEP_RATIO, _STEPS = 1.5, 40
_TOKENS = 24  # of the text that compressed packages are judged on


@dataclass(frozen=True)
class Point:
    """One line of the table.

    Attributes:
        of: what was measured.
        metric: which figure.
        found: its value.
        limit: the largest allowed, or the smallest.
        at_least: whether the limit is the smallest.
    """

    of: str
    metric: str
    found: float
    limit: float
    at_least: bool = False

    @property
    def kept(self) -> bool:
        """Whether it lies within the limit."""
        return self.found >= self.limit if self.at_least else self.found <= self.limit


def build(**options: object) -> nn.Module:
    """The decoder, in evaluation mode; ``options`` replace sizes of its configuration."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    sizes = {
        "vocab_size": 4096,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 2,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 2 * CONTEXT,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(0)
    model: nn.Module = Qwen3ForCausalLM(Qwen3Config(**{**sizes, **options})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(3.0)
    return model


def counted(package: Path, function: str) -> dict[str, float]:
    """Metrics of one function, those of ``DECODE``."""
    from lowering import plan
    from lowering.reference import load

    loaded = load(package, function=function)
    kinds = Counter(op.type for op in loaded.ops)
    planned = plan(package, chip=CHIP, function=function)
    return {
        "ops": kinds.total(),
        "transpose": kinds["transpose"],
        "reshape": kinds["reshape"],
        "scatter": sum(count for kind, count in kinds.items() if "scatter" in kind),
        "states": len(list(loaded.make_state())),
        "off the ANE": sum(op.device != "ane" for op in planned.ops),
        "price": planned.dispatch_ms,
    }


def counts(model: nn.Module, folder: Path) -> Iterator[Point]:
    """Operators and price, for each form of the cache and place of the table."""
    from lowering.generation import export_decoder

    for cache, embeddings in FORMS:
        report = export_decoder(
            model,
            folder / f"{cache}-{embeddings}",
            context=CONTEXT,
            prefill=PREFILL,
            cache=cache,  # type: ignore[arg-type]
            embeddings=embeddings,  # type: ignore[arg-type]
        )
        for function, limits in (("decode", DECODE), ("prefill", PROMPT)):
            found = counted(report.path, function)
            for metric, limit in limits.items():
                yield Point(f"{function}, {cache}, {embeddings}", metric, found[metric], limit)


def sizes(model: nn.Module, folder: Path) -> Iterator[Point]:
    """Bytes of the package over the weights, for two functions and for three lengths of prompts."""
    from lowering.generation import export_decoder

    weights = 2 * sum(parameter.numel() for parameter in model.parameters())
    for of, prefill, share in (
        ("two functions", (PREFILL,), _TWO_FUNCTIONS),
        ("three buckets", (16, PREFILL, 128), _THREE_BUCKETS),
    ):
        report = export_decoder(
            model, folder / of.replace(" ", "-"), context=CONTEXT, prefill=prefill
        )
        yield Point(of, "bytes / weights", (report.size - _PROGRAMS) / weights, share)


def compressed(model: nn.Module, folder: Path) -> Iterator[Point]:
    """Bytes of each rung over the package without, and the correlation of its logits."""
    import numpy as np
    import torch

    from lowering.compression.compressing import compress
    from lowering.generation import Generator, export_decoder

    whole = export_decoder(model, folder / "whole", context=CONTEXT, prefill=PREFILL)
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(4096, (1, _TOKENS), generator=draw)
    with torch.no_grad():
        expected = model(ids).logits[0].numpy()
    for rung, (share, correlation) in RUNGS.items():
        package = folder / f"{rung}.mlpackage"
        result = compress(whole.path, rung, package)
        yield Point(rung, "bytes / float16", result.bytes_after / result.bytes_before, share)
        found = Generator(package).check(ids[0].tolist())
        with_own = float(np.corrcoef(found.ravel(), expected.ravel())[0, 1])
        yield Point(rung, "correlation", with_own, correlation, at_least=True)


def speed(model: nn.Module, folder: Path) -> Iterator[Point]:
    """A step of the interpreter over one of eager torch."""
    import torch
    from transformers import StaticCache

    from lowering.generation import export_decoder
    from lowering.generation.functions import Functions

    report = export_decoder(model, folder / "step", context=CONTEXT, prefill=0)
    torch.set_num_threads(1)
    functions = Functions(report.path)
    cache = StaticCache(config=model.config, max_cache_len=CONTEXT)

    def eager(position: int) -> None:
        with torch.no_grad():
            model(torch.tensor([[5]]), past_key_values=cache, use_cache=True)

    sides: tuple[Callable[[int], object], ...] = (
        lambda position: functions.step("decode", [5], position),
        eager,
    )
    taken: tuple[list[float], list[float]] = ([], [])
    for position in range(_STEPS):
        for side, times in zip(sides, taken, strict=True):
            begun = time.thread_time()
            side(position)
            times.append(time.thread_time() - begun)
    ours, beside = (statistics.median(times[1:]) for times in taken)
    yield Point("decode, interpreter", "time / eager", ours / beside, _STEP_RATIO)


PARTS: Mapping[str, Callable[[Any, Path], Iterator[Point]]] = {
    "counts": counts,
    "sizes": sizes,
    "compressed": compressed,
    "step": speed,
}


def table(points: Sequence[Point]) -> Table:
    """A row for each point."""
    made = Table("", "", "found", "limit", "", box=None, pad_edge=False)
    for point in points:
        sign = "≥" if point.at_least else "≤"
        found = f"{point.found:.4g}"
        verdict = "kept" if point.kept else "[red]missed[/red]"
        made.add_row(point.of, point.metric, found, f"{sign} {point.limit:g}", verdict)
    return made


@click.command(help=__doc__)
@click.option("--only", type=click.Choice(tuple(PARTS)), multiple=True, help="These parts alone.")
@json_option
@guarded
def main(only: tuple[str, ...], as_json: bool) -> None:
    """See the module."""
    from lowering.support.quiet import quiet_third_parties

    quiet_third_parties()
    model = build()
    points: list[Point] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in only or PARTS:
            with step(f"Measuring {name}"):
                points += PARTS[name](model, Path(folder))
    if as_json:
        print_json([{**asdict(point), "kept": point.kept} for point in points])
    else:
        stdout_console().print(table(points))
    sys.exit(0 if all(point.kept for point in points) else EXIT_CHECK_FAILED)


if __name__ == "__main__":
    main()
