"""Which of our lowerings the installed coremltools does not need: its own are right.

    python -m tests.lowering.conversion.stock_lowerings [OPS]... [--json]

Each operator that we lower is converted by coremltools' own lowering, on the calls that hold ours
against torch, and run by the interpreter. It is *right* on all of them, or on *some*; or
coremltools has *none*, refuses every call, or gets some *wrong* and refuses the others. Words of
OPS choose operators by name.

A new release of coremltools is tried with this: what is right in it is not needed any more, once
it is the oldest release that we take.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence

import click
import coremltools
import torch
from rich.console import Console

from frontend.errors import AnePassesError
from lowering.conversion.builder import MilBuilder
from lowering.conversion.composites import Composite, Sample
from lowering.conversion.registry import stock_lowering
from lowering.errors import CompositeError
from lowering.support.quiet import quiet_coremltools
from lowering.verification.check_composite import check_composite
from tests.lowering.conversion import (
    torch_op_samples,
    torch_op_samples_integers,
    torch_op_samples_mixed,
)

SAMPLES: dict[torch._ops.OpOverload, Sequence[Sample]] = {
    **torch_op_samples.SAMPLES,
    **torch_op_samples_mixed.SAMPLES,
    **torch_op_samples_integers.SAMPLES,
}
VERDICTS = ("right", "some", "wrong", "refused", "none")


def _stock(mb: MilBuilder, *arguments: object, **options: object) -> object:
    return NotImplemented  # which leaves the operator to coremltools


def verdict(op: torch._ops.OpOverload) -> str:
    """One of ``VERDICTS`` for ``op``."""
    if stock_lowering(op) is None:
        return "none"
    found = Counter(_outcome(op, sample) for sample in SAMPLES[op])
    if len(found) == 1:
        return next(iter(found))
    return "some" if found["right"] else "wrong"


def _outcome(op: torch._ops.OpOverload, sample: Sample) -> str:
    try:
        with quiet_coremltools():
            check_composite(Composite(op, _stock, (sample,)))
    except CompositeError:
        return "wrong"
    except AnePassesError:
        return "refused"
    return "right"


@click.command(help=__doc__)
@click.argument("words", metavar="[OPS]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def main(words: tuple[str, ...], as_json: bool) -> None:
    """See the module."""
    chosen = [op for op in SAMPLES if not words or any(word in str(op) for word in words)]
    progress = Console(stderr=True)
    found: defaultdict[str, list[str]] = defaultdict(list)
    for number, op in enumerate(chosen, 1):
        said = verdict(op)
        found[said].append(str(op))
        progress.print(f"{number}/{len(chosen)} {op}: {said}", markup=False, highlight=False)
    if as_json:
        print(json.dumps({"coremltools": coremltools.__version__, **found}, indent=1))
        return
    print(f"coremltools {coremltools.__version__}, {len(chosen)} operators")
    for said in VERDICTS:
        print(f"{said}: {len(found[said])}")
    print(f"right: {', '.join(found['right'])}")


if __name__ == "__main__":
    main()
