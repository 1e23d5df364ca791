"""Does ``verify`` notice a fault in a package, and does it name the op that has it?

Random single faults are planted, one at a time, in packages of four models: a wrong epsilon, a
swapped axis, an off-by-one slice, a dropped scale, a perturbed weight and others, see
``benchmarks.faults``. For each one ``verify`` gets the faulty package and the original module.

* A fault counts as *above the threshold* when it alone moves an output of the package by more than
  the error that ``verify`` allows, or keeps the package from running. Each has to be noticed.
* Of those noticed, the op named is *right* when it is the faulty one, or when the faulty op is
  another op of the same torch operator with nothing to compare in between.

Exit codes: 0 every target is met, 1 one is missed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click
import coremltools as ct
import numpy as np
import torch
from rich.markup import escape
from rich.progress import track
from rich.table import Table

import lowering
import passes
from benchmarks.fault_models import MODELS
from benchmarks.faults import Patient
from lowering.cli.common import (
    EXIT_CHECK_FAILED,
    guarded,
    json_option,
    print_json,
    stdout_console,
)
from lowering.package.source_table import SourceTable
from lowering.verification import Original, Verification, verify
from lowering.verification import package_values as values
from lowering.verification.parity import rel_l2

TARGET_RIGHT = 0.95
DEFAULT_COUNT = 200


@dataclass(frozen=True)
class Outcome:
    """What became of one fault.

    Attributes:
        model, kind, op, description: the fault.
        effect: largest relative L2 change of an output against the sound package; infinite when
            the faulty one cannot be run.
        allowed: the threshold that ``verify`` used.
        noticed: whether ``verify`` failed.
        named: the MIL op it named, ``None`` when it named none.
        exact: whether that is the faulty op.
        right: see the module.
    """

    model: str
    kind: str
    op: str
    description: str
    effect: float
    allowed: float
    noticed: bool
    named: str | None
    exact: bool
    right: bool

    @property
    def above(self) -> bool:
        """Whether the fault is above the threshold."""
        return not self.effect <= self.allowed


class Sound:
    """A sound package with its original and its outputs."""

    def __init__(self, name: str, optimized: bool = True) -> None:
        self.name = name
        module, inputs = MODELS[name]()
        model: Any = passes.optimize_for_ane(module, inputs) if optimized else module
        self.package = lowering.convert(model, None if optimized else inputs, skip_model_load=True)
        metadata = dict(self.package.user_defined_metadata)
        self.original = Original.of(module, inputs, metadata=metadata)
        self.sources = SourceTable.from_metadata(metadata)
        self.outputs = self.run(self.package)

    def run(self, package: ct.models.MLModel) -> dict[str, torch.Tensor] | None:
        """Outputs of a package on the inputs, ``None`` when it cannot be run."""
        model = lowering.load(package)
        done = values.run(model, values.feed_of(model, self.original))
        if done.error is not None:
            return None
        return {item.name: done.values[item.name] for item in model.program.outputs}

    def effect(self, package: ct.models.MLModel) -> float:
        """The largest relative change of an output; infinite when it cannot be run."""
        found = self.run(package)
        if found is None or self.outputs is None:
            return math.inf
        return max(rel_l2(found[name], value) for name, value in self.outputs.items())


def inject(sound: Sound, rng: np.random.Generator) -> Outcome:
    """Plants one random fault: first its kind is drawn, then the place."""
    patient = Patient(sound.package)
    faults = patient.faults(rng)
    fault = (lambda group: group[int(rng.integers(len(group)))])(
        faults[str(rng.choice(sorted(faults)))]
    )
    fault.plant()
    package = patient.model()
    found = verify(package, sound.original)
    named = found.divergence.op if found.divergence else None
    return Outcome(
        model=sound.name,
        kind=fault.kind,
        op=fault.op,
        description=fault.description,
        effect=sound.effect(package),
        allowed=min(output.threshold for output in found.outputs) if found.outputs else 0.0,
        noticed=not found.passed,
        named=named,
        exact=named == fault.op,
        right=_is_right(found, fault.op, sound.sources),
    )


def _is_right(found: Verification, op: str, sources: SourceTable) -> bool:
    if found.divergence is None:
        return False
    same_operator = sources.lookup(op) == found.divergence.source
    return found.divergence.op == op or (op in found.divergence.between and same_operator)


def campaign(
    count: int,
    seed: int,
    progress: Callable[[range], Iterator[int]] = iter,
    names: Sequence[str] = tuple(MODELS),
) -> list[Outcome]:
    """``count`` faults, in turn in each model; the same ones for the same ``seed``."""
    rng = np.random.default_rng(seed)
    sound = [Sound(name) for name in names]
    return [inject(sound[number % len(sound)], rng) for number in progress(range(count))]


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Counts, shares and whether the targets are met."""
    above = [item for item in outcomes if item.above]
    noticed = [item for item in above if item.noticed]
    right = sum(item.right for item in noticed)
    unnoticed = len(above) - len(noticed)
    share = right / len(noticed) if noticed else 0.0
    return {
        "faults": len(outcomes),
        "above_threshold": len(above),
        "unnoticed_above": unnoticed,
        "below_threshold": len(outcomes) - len(above),
        "noticed_below": sum(item.noticed for item in outcomes if not item.above),
        "right": right,
        "right_share": share,
        "exact_share": sum(item.exact for item in noticed) / len(noticed) if noticed else 0.0,
        "target_share": TARGET_RIGHT,
        "met": share >= TARGET_RIGHT and unnoticed == 0,
    }


@click.command(help=__doc__)
@click.option("--count", default=DEFAULT_COUNT, show_default=True, help="Faults to plant.")
@click.option("--seed", default=0, show_default=True)
@json_option
@guarded
def main(count: int, seed: int, as_json: bool) -> None:
    """Plants the faults and prints what was found."""
    torch.set_num_threads(1)

    def progress(numbers: range) -> Iterator[int]:
        from rich.console import Console

        yield from track(numbers, "Planting faults", console=Console(stderr=True))

    outcomes = campaign(count, seed, progress)
    result = summary(outcomes)
    if as_json:
        print_json({**result, "outcomes": [{**asdict(o), "above": o.above} for o in outcomes]})
    else:
        _print(outcomes, result)
    if not result["met"]:
        raise SystemExit(EXIT_CHECK_FAILED)


def _print(outcomes: list[Outcome], result: dict[str, Any]) -> None:
    console = stdout_console()
    table = Table("kind", "planted", "above threshold", "noticed", "right")
    for kind, number in sorted(Counter(item.kind for item in outcomes).items()):
        above = [item for item in outcomes if item.kind == kind and item.above]
        noticed = [item for item in above if item.noticed]
        right = sum(item.right for item in noticed)
        table.add_row(kind, *(str(n) for n in (number, len(above), len(noticed), right)))
    console.print(table)
    for item in outcomes:
        if item.above and not (item.noticed and item.right):
            verdict = f"named {item.named}" if item.noticed else "unnoticed"
            console.print(
                escape(f"{item.model}: {item.kind} in {item.op} ({item.description}): {verdict}")
            )
    console.print(
        f"{result['above_threshold']} of {result['faults']} faults above the threshold, "
        f"{result['unnoticed_above']} of them unnoticed (target 0); named op right in "
        f"{result['right_share']:.1%} (target {TARGET_RIGHT:.0%}), the very op in "
        f"{result['exact_share']:.1%}; {result['below_threshold']} below the threshold, "
        f"{result['noticed_below']} of them noticed"
    )


if __name__ == "__main__":
    main()
