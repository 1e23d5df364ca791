"""What each weight of a package may become, and what each form costs the outputs.

How much the outputs suffer is found by putting four bits of one weight after the other into the
program that runs. The error of other bits follows from how far they are from the weight, and that
of all weights together from the squares of theirs, as if they were independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from frontend.errors import InputError
from lowering.compression.budget import Budget
from lowering.compression.encoding import DecodeOp, encode, spread
from lowering.compression.rungs import Rung, rung_of
from lowering.compression.sites import WeightSite, sites
from lowering.package.folder import stored_bytes
from lowering.package.open import Package
from lowering.reference import LoadedModel, load
from lowering.reference.inputs import given_inputs
from lowering.verification.metrics import Metric
from lowering.verification.parity import rel_l2

# What a weight may become, and what its part in the error is found with.
_RUNGS = ("int8", "pal6", "pal4", "pal2")
_PROBE = "pal4"


@dataclass(frozen=True)
class WeightForm:
    """A weight in one form.

    Attributes:
        rung: ``None`` for the weight as it was.
        bytes: that it takes.
        error: relative L2 error of the weight.
    """

    rung: Rung | None
    bytes: float
    error: float


class WeightBits:
    """What each weight may become, and what each costs the outputs."""

    def __init__(
        self,
        opened: Package,
        source: Path,
        inputs: Sequence[Mapping[str, object]],
        seed: int,
    ) -> None:
        self._size = stored_bytes(source)
        self._model = load(source)
        self._calls = list(inputs) or [given_inputs(self._model.inputs, (), seed)]
        self._wanted = [_outputs(self._model, call) for call in self._calls]
        _, block = opened.function(opened.function_name())
        self._choices: dict[str, list[WeightForm]] = {}
        self._shares: dict[str, float] = {}
        for site in sites(block):
            if site.refusal:
                self._choices[site.name] = [WeightForm(None, site.count * site.dtype.bits / 8, 0.0)]
                continue
            weight = opened.weights.stored(site.value)
            self._choices[site.name] = _hull(list(self._forms(site, weight)))
            opened.weights.release(site.value)

    def _forms(self, site: WeightSite, weight: np.ndarray) -> Iterator[WeightForm]:
        yield WeightForm(None, site.count * site.dtype.bits / 8, 0.0)
        if not np.isfinite(weight).all():
            return  # the compression itself says so
        wide = weight.astype(np.float32)
        for name in _RUNGS:
            rung = rung_of(name)
            made = encode(site, weight, rung)
            if isinstance(made, str):
                continue
            decoded = _decoded(made[0], weight)
            error = float(np.linalg.norm(decoded - wide) / (np.linalg.norm(wide) or 1.0))
            if name == _PROBE and error:
                self._shares[site.name] = self._effect(site.name, decoded) / error
            yield WeightForm(rung, made[0].bits / 8, error)

    def _effect(self, name: str, decoded: np.ndarray) -> float:
        """Relative error of the outputs where this weight alone is the decoded one."""
        with _replaced(self._model, name, torch.from_numpy(decoded)):
            return self._error([_outputs(self._model, call) for call in self._calls])

    def _error(self, found: Sequence[Mapping[str, torch.Tensor]]) -> float:
        squares = [
            max(
                (
                    rel_l2(ours[name], want) ** 2
                    for name, want in theirs.items()
                    if want.is_floating_point()
                ),
                default=0.0,
            )
            for ours, theirs in zip(found, self._wanted, strict=True)
        ]
        return math.sqrt(sum(squares) / len(squares))

    def within(self, budget: Budget, limit: float) -> dict[str, Rung | None]:
        """The rung of each weight that keeps their sum within ``limit``.

        Raises:
            InputError: that is more than can be reached.
        """
        place = dict.fromkeys(self._choices, 0)
        size = float(self._size)
        square = 0.0
        steps = sorted(
            (
                (self._square(name, after) - self._square(name, before))
                / (before.bytes - after.bytes),
                name,
                number,
            )
            for name, choices in self._choices.items()
            for number, (before, after) in enumerate(pairwise(choices), 1)
        )
        for _, name, number in steps:
            before, after = self._choices[name][number - 1 : number + 1]
            more = self._square(name, after) - self._square(name, before)
            if budget.measure == "bytes" and size <= limit:
                break
            if budget.measure == "error" and square + more > limit**2:
                break
            size -= before.bytes - after.bytes
            square += more
            place[name] = number
        if budget.measure == "bytes" and size > limit:
            raise InputError(
                "the budget is smaller than any mixture of bits",
                expected=f"at most {budget}",
                found=f"the smallest that can be reached is about {size / 1e6:.4g} MB",
                hint="allow that much, or take joint, which leaves numbers out as well",
            )
        chosen = {name: self._choices[name][number].rung for name, number in place.items()}
        if not any(chosen.values()):
            raise InputError(
                "the budget leaves every weight as it is",
                expected=f"more than {budget}" if budget.measure == "error" else "a smaller size",
                found=f"the package has {self._size / 1e6:.4g} MB",
                hint="allow a larger error, or fewer bytes",
            )
        return chosen

    def _square(self, name: str, choice: WeightForm) -> float:
        return (choice.error * self._shares.get(name, 0.0)) ** 2

    def errors(self) -> tuple[float, float]:
        """The error that the outputs are predicted to have with the most bits, and the fewest."""
        ends = []
        for place in (1, -1):
            squares = (
                self._square(name, choices[place if len(choices) > 1 else 0])
                for name, choices in self._choices.items()
            )
            # Rounding the sum must not leave the last weight out.
            ends.append(math.sqrt(sum(squares)) * (1 + 1e-6))
        return ends[0], ends[1]

    def agreement(self, metric: Metric, package: Path) -> float:
        """How far a package agrees with the one it is made from: the mean over the calls."""
        model = load(package)
        found = [
            float(metric(_outputs(model, call), wanted))
            for call, wanted in zip(self._calls, self._wanted, strict=True)
        ]
        return math.fsum(found) / len(found)

    def reached(self, budget: Budget, package: Path) -> float:
        """Bytes or error of a package that was made."""
        if budget.measure == "bytes":
            return float(stored_bytes(package))
        model = load(package)
        return self._error([_outputs(model, call) for call in self._calls])


def _hull(choices: list[WeightForm]) -> list[WeightForm]:
    """From the largest on, those whose error for each byte saved only grows."""
    ordered = sorted(choices, key=lambda one: (-one.bytes, one.error))
    kept: list[WeightForm] = []
    for choice in ordered:
        if kept and choice.bytes >= kept[-1].bytes:
            continue
        while len(kept) > 1 and _slope(kept[-2], kept[-1]) >= _slope(kept[-2], choice):
            kept.pop()
        kept.append(choice)
    return kept


def _slope(before: WeightForm, after: WeightForm) -> float:
    return (after.error**2 - before.error**2) / (before.bytes - after.bytes)


def _decoded(made: DecodeOp, weight: np.ndarray) -> np.ndarray:
    """What a form with integers, or with one palette, decodes to, in float32."""
    parts = {name: part.array for name, part in made.parts.items()}
    if "lut" in parts:
        found: np.ndarray = parts["lut"].reshape(-1).astype(np.float32)[parts["indices"]]
        return found
    scale = spread(parts["scale"].astype(np.float32), weight.shape)
    return parts["data"].astype(np.float32) * scale


@contextmanager
def _replaced(model: LoadedModel, name: str, value: torch.Tensor) -> Iterator[None]:
    """Let the operators of ``model`` read ``value`` as the weight ``name``."""
    held = next(
        op.constants[parameter]
        for op in model.ops
        for parameter, names in op.inputs.items()
        if name in names and isinstance(op.constants.get(parameter), torch.Tensor)
    )
    before = held.clone()
    held.copy_(value.reshape(held.shape))
    try:
        yield
    finally:
        held.copy_(before)


def _outputs(model: LoadedModel, call: Mapping[str, object]) -> dict[str, torch.Tensor]:
    """The numbers that a call gives, by name; of a classifier its probabilities."""
    arrays = {
        name: np.array([*value.values()]) if isinstance(value, dict) else value
        for name, value in model(call, model.make_state()).items()
    }
    return {
        name: torch.from_numpy(array)
        for name, array in arrays.items()
        if isinstance(array, np.ndarray) and array.dtype.kind in "fi"
    }
