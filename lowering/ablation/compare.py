"""``compare``: the figures of two packages side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from frontend.deprecated import renamed_arguments
from lowering.ablation.result import Predicted
from lowering.package.open import MAIN
from lowering.planner.mil import read_program
from lowering.planner.mil_stats import MilStats, mil_stats, weight_bytes
from lowering.planner.placement import plan
from lowering.reference import LoadedModel, load
from lowering.reference.inputs import given_inputs
from lowering.verification.parity import rel_l2


@dataclass(frozen=True)
class PackageFigures:
    """What a package is made of, and what is *predicted* of it.

    Attributes:
        package: its path.
        mil: operator counts and bytes.
        weight_bytes: its weights as stored.
        predicted: one entry for each chip.
    """

    package: str
    mil: MilStats
    weight_bytes: int
    predicted: tuple[Predicted, ...]

    @classmethod
    def of(
        cls, package: str | Path, chips: Sequence[str] = ("M4",), function: str = MAIN
    ) -> PackageFigures:
        """The figures of one function of the package at a path.

        Raises:
            PackageError: there is no ML Program.
            UnknownChipError: a chip is not known.
        """
        plans = [plan(package, chip=chip, function=function) for chip in chips]
        return cls(
            str(package),
            mil_stats(read_program(package, function_name=function)),
            weight_bytes(package),
            tuple(Predicted.of(entry) for entry in plans),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "package": self.package,
            "mil": self.mil.to_json(),
            "weight_bytes": self.weight_bytes,
            "predicted": [entry.to_json() for entry in self.predicted],
        }


@dataclass(frozen=True)
class PackageComparison:
    """Two packages.

    Attributes:
        first, second: their figures.
        output_difference: output to the relative L2 difference of the second from the first, both
            run in the interpreter on the same random inputs; ``None`` where inputs or outputs
            differ.
    """

    first: PackageFigures
    second: PackageFigures
    output_difference: dict[str, float] | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "first": self.first.to_json(),
            "second": self.second.to_json(),
            "output_difference": self.output_difference,
            "notes": list(self.notes()),
        }

    def notes(self) -> Iterator[str]:
        """How to read a share of the ANE that falls together with the price."""
        names = (Path(self.first.package).name, Path(self.second.package).name)
        for pair in zip(self.first.predicted, self.second.predicted, strict=True):
            high, low = sorted((0, 1), key=lambda side: -pair[side].ane_cost)
            if pair[low].ane_cost < pair[high].ane_cost and (
                pair[low].dispatch_ms < pair[high].dispatch_ms
            ):
                yield (
                    f"{pair[low].target}: {names[low]} has less on the ANE and still the lower "
                    f"price, {pair[low].dispatch_ms:.3g} against {pair[high].dispatch_ms:.3g} ms: "
                    "that is a gain, not a loss"
                )

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Metric and its two values as text."""
        a, b = self.first, self.second
        yield "ops", str(a.mil.ops), str(b.mil.ops)
        for op_type in dict.fromkeys((*a.mil.by_type, *b.mil.by_type)):
            yield f"  {op_type}", str(a.mil.count(op_type)), str(b.mil.count(op_type))
        yield "ops of rank ≠ 4", str(a.mil.not_rank4), str(b.mil.not_rank4)
        for name in ("activation_bytes", "padded_bytes", "largest_bytes"):
            label = f"{name.removesuffix('_bytes')}, MB"
            yield label, _mb(getattr(a.mil, name)), _mb(getattr(b.mil, name))
        yield "weights, MB", _mb(a.weight_bytes), _mb(b.weight_bytes)
        for one, other in zip(a.predicted, b.predicted, strict=True):
            chip = one.target
            yield f"{chip}: ANE share of ops", f"{one.ane_ops:.0%}", f"{other.ane_ops:.0%}"
            yield f"{chip}: ANE share of price", f"{one.ane_cost:.0%}", f"{other.ane_cost:.0%}"
            yield f"{chip}: segments", str(one.segments), str(other.segments)
            yield f"{chip}: switches", str(one.switches), str(other.switches)
            yield f"{chip}: price, ms", f"{one.dispatch_ms:.3g}", f"{other.dispatch_ms:.3g}"
            yield f"{chip}: latency, ms", one.latency_text, other.latency_text


@renamed_arguments(targets="chips")
def compare(
    first: str | Path,
    second: str | Path,
    *,
    chips: Sequence[str] = ("M4",),
    seed: int = 0,
    function: str | tuple[str, str] = MAIN,
) -> PackageComparison:
    """Two packages side by side.

    Args:
        first, second: paths of packages.
        chips: to predict for.
        seed: of the random inputs that both are run on.
        function: of packages with several, one name for both or one for each; so two functions of
            one package can be compared as well.

    Raises:
        PackageError: there is no ML Program at a path.
        UnknownChipError: a chip is not known.
        UnknownOpsError: the interpreter does not know an op of a package.
    """
    one, other = (function, function) if isinstance(function, str) else function
    return PackageComparison(
        PackageFigures.of(first, chips, one),
        PackageFigures.of(second, chips, other),
        _output_difference(load(first, function=one), load(second, function=other), seed),
    )


def _output_difference(one: LoadedModel, other: LoadedModel, seed: int) -> dict[str, float] | None:
    if list(one.inputs) != list(other.inputs) or set(one.outputs) != set(other.outputs):
        return None
    inputs = given_inputs(one.inputs, (), seed)
    if any(one.inputs[name].ranges != other.inputs[name].ranges for name in one.inputs):
        return None
    want, have = one(inputs, one.make_state()), other(inputs, other.make_state())
    return {
        name: rel_l2(torch.from_numpy(have[name]), torch.from_numpy(value))
        for name, value in want.items()
        if hasattr(value, "dtype") and have[name].shape == value.shape
    }


def _mb(count: int) -> str:
    return f"{count / 1e6:.3g}"
