"""``mixed``: each weight in as many bits as it needs, under a budget of bytes or of error.

How much the outputs suffer is found by putting four bits of one weight after the other into the
program that runs. The error of other bits follows from how far they are from the weight, and that
of all weights together from the squares of theirs, as if they were independent; what is chosen so
is then run as a whole, and chosen again with more care where that was too hopeful.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from frontend.errors import InputError, about
from lowering.compression.budget import Budget, budget_of
from lowering.compression.compressing import check_compressible, compress_with
from lowering.compression.encoding import DecodeOp, encode, spread
from lowering.compression.result import Compression
from lowering.compression.rungs import MIXED, Rung, rung_of
from lowering.compression.sites import WeightSite, sites
from lowering.package.folder import SUFFIX, stored_bytes
from lowering.package.open import Package, open_package, read_specification
from lowering.package.saving import copy_package, package_path
from lowering.reference import LoadedModel, load
from lowering.reference.inputs import given_inputs
from lowering.verification.parity import rel_l2

# What a weight may become, and what its part in the error is found with.
_RUNGS = ("int8", "pal6", "pal4", "pal2")
_PROBE = "pal4"
# How often a choice is made again where the whole was not within the budget.
_TRIES = 5


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


def compress_mixed(
    package: str | os.PathLike[str],
    budget: str | int | Budget | None,
    out: str | os.PathLike[str] | None = None,
    *,
    inputs: Sequence[Mapping[str, object]] = (),
    seed: int = 0,
) -> Compression:
    """Write a package whose weights have the bits that a budget leaves them.

    Args:
        package: path of a ``.mlpackage`` of one function, whose weights are fp16 or fp32.
        budget: ``"12MB"`` or a number of bytes, or ``"error=0.05"``: relative L2, at most, of the
            outputs against those of ``package``.
        out: where the package goes; beside the original by default, as ``NAME-mixed.mlpackage``.
        inputs: calls by name that the weights are judged on; random numbers where there are none,
            which say less.
        seed: of these.

    Raises:
        InputError: the budget cannot be reached; the message has what can be. Else as for
            ``compress``.
    """
    source = Path(package).expanduser()
    target = package_path(out or source.with_name(f"{source.stem}-{MIXED}{SUFFIX}"))
    if budget is None:
        raise InputError(
            "mixed bits need a budget",
            expected="a size such as 12MB, or error=0.05",
            hint="give one with --budget, or take one rung for all weights, such as pal6",
        )
    allowed = budget_of(budget)
    if allowed.measure == "metric":
        raise InputError(
            "mixed bits have no metric of a task",
            expected="a size such as 12MB, or error=0.05",
            found=str(allowed),
            hint="`ladder` judges by a metric",
        )
    specification, _ = read_specification(source)
    with about(str(source)):
        check_compressible(specification, Rung(MIXED, "palette", 8), str(source))
        opened = open_package(source)
        if len(opened.program.functions) > 1:
            raise InputError(
                "mixed bits are chosen for packages of one function",
                found=", ".join(sorted(opened.program.functions)),
                hint="take one rung for all weights, such as pal6",
            )
        bits = _Bits(opened, source, inputs, seed)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".ane-passes-") as scratch:
        trial = Path(scratch) / f"{MIXED}{SUFFIX}"
        limit = allowed.limit
        for _ in range(_TRIES):
            chosen = bits.within(allowed, limit)
            found = compress_with(source, partial(_rung, chosen), _named(chosen), trial)
            reached = bits.reached(allowed, trial)
            if reached <= allowed.limit:
                copy_package(trial, target)
                return Compression(
                    target, MIXED, found.bytes_before, stored_bytes(target), found.weights
                )
            limit = (
                limit - (reached - limit)
                if allowed.measure == "bytes"
                else (limit * 0.9 * allowed.limit / reached)
            )
    raise InputError(
        "no mixture of bits is within the budget",
        expected=f"at most {allowed}",
        found=f"the last of {_TRIES} tries reached {Budget(allowed.measure, reached)}",
        hint="allow more",
    )


def _rung(chosen: Mapping[str, Rung | None], site: WeightSite) -> Rung | None:
    return chosen[site.name]


def _named(chosen: Mapping[str, Rung | None]) -> Rung:
    return Rung(MIXED, "palette", min((r.bits for r in chosen.values() if r), default=8))


class _Bits:
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

    def _error(self, found: Sequence[Sequence[torch.Tensor]]) -> float:
        squares = [
            max((rel_l2(a, b) ** 2 for a, b in zip(ours, theirs, strict=True)), default=0.0)
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


def _outputs(model: LoadedModel, call: Mapping[str, object]) -> list[torch.Tensor]:
    """The numbers that a call gives; of a classifier its probabilities."""
    found = model(call, model.make_state())
    arrays = [np.array([*v.values()]) if isinstance(v, dict) else v for v in found.values()]
    return [
        torch.from_numpy(a) for a in arrays if isinstance(a, np.ndarray) and a.dtype.kind == "f"
    ]
