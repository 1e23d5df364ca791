"""Whether the default form is predicted no slower than the program without passes.

Five models in real widths (``benchmarks.ablation``) and the zoo's largest, for iOS 17 and 18, on
every chip that measured programs back. The form of attention is chosen for the chip, as
``optimize_for_ane(..., target=CHIP)`` does; ``--untargeted`` asks for no chip. Both programs are
converted by us. Nothing is run: latencies are *predicted* (``benchmarks.latency`` says how well).

Exit codes: 0 nothing is slower, 1 something is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click
import torch
from rich.table import Table
from torch import nn
from torch.export import ExportedProgram

from benchmarks import ablation
from benchmarks.zoo.catalog import entries
from benchmarks.zoo.entry import Entry
from frontend.errors import AnePassesError, first_line
from lowering.cli.common import (
    EXIT_CHECK_FAILED,
    guarded,
    json_option,
    print_json,
    stdout_console,
    step,
)

SYSTEMS = ("iOS17", "iOS18")
LARGEST = 10
# Less is no difference: the best-known chip's programs are predicted to 5 %, and one more
# operator of a few elements moves the sum by less than this.
SAME = 0.005


@dataclass(frozen=True)
class Row:
    """One model for one system on one chip; latencies are *predicted*, in milliseconds.

    Attributes:
        model: its name.
        system: oldest system, such as ``iOS18``.
        chip: such as ``M4``.
        without_ms: without passes; ``None`` where nothing runs on the ANE, or the program cannot
            be converted.
        with_ms: with the default passes; likewise.
    """

    model: str
    system: str
    chip: str
    without_ms: float | None
    with_ms: float | None

    @property
    def ratio(self) -> float | None:
        """With passes over without; below 1 they pay."""
        if self.without_ms is None or self.with_ms is None:
            return None
        return self.with_ms / self.without_ms

    @property
    def slower(self) -> bool:
        """Whether the passes cost time: they are slower, or take the model off the ANE."""
        if self.without_ms is None:
            return False
        return self.ratio is None or self.ratio > 1 + SAME


def fitted_chips() -> tuple[str, ...]:
    """The chips with a latency to predict."""
    from lowering.planner.latency import fitted

    return tuple(fitted()["chips"])


def largest(count: int = LARGEST) -> list[Entry]:
    """The zoo's models with the most parameters, largest first."""
    members = [entry for _, entry in entries().values()]
    return sorted(members, key=_parameters, reverse=True)[:count]


def _parameters(entry: Entry) -> int:
    try:
        with torch.device("meta"):
            module = entry.build()
    except RuntimeError:  # it computes with its weights while it is built
        module = entry.build()
    return sum(parameter.numel() for parameter in module.parameters())


def defaults() -> list[str]:
    """Names of the models that are held against their programs without passes."""
    return [*ablation.MODELS, *(entry.name for entry in largest())]


def built(name: str) -> tuple[nn.Module, Mapping[str, Any]]:
    """A model of ``benchmarks.ablation`` or of the zoo, and its keyword arguments.

    Raises:
        click.UsageError: there is no such model.
    """
    if name in ablation.MODELS:
        return ablation.built(name)
    known = entries()
    if name not in known:
        there = ", ".join([*ablation.MODELS, *known])
        raise click.UsageError(f"no model {name}; there are {there}")
    return known[name][1].made()[:2]


def rows_of(
    name: str,
    made: tuple[nn.Module, Mapping[str, Any]],
    systems: Sequence[str],
    chips: Sequence[str],
    *,
    targeted: bool = True,
) -> Iterator[Row]:
    """The rows of one model.

    Args:
        name: of the model.
        made: the model and its keyword arguments.
        systems: oldest systems.
        chips: chips with a latency.
        targeted: choose the form for the chip.

    Raises:
        AnePassesError: it cannot be captured, rewritten or converted.
    """
    import passes

    model, inputs = made
    with step(f"{name}: capture"):
        program = passes.optimize_for_ane(model, (), kwargs=inputs, pipeline=()).program
    for system in systems:
        with step(f"{name}, {system}: without passes"):
            before = _without_passes(name, program, system, chips)
        # Chips that ask for one form share one program.
        known: dict[str, dict[str, float | None]] = {}
        for chip in chips:
            with step(f"{name}, {system}, {chip}"):
                target = chip if targeted else None
                rewritten = passes.optimize_for_ane(
                    program, target=target, deployment_target=system
                ).program
                text = str(rewritten.graph)
                if text not in known:
                    known[text] = latencies(rewritten, system, chips)
            yield Row(name, system, chip, before[chip], known[text][chip])


def _without_passes(
    name: str, program: ExportedProgram, system: str, chips: Sequence[str]
) -> dict[str, float | None]:
    """Latencies of the program as it was captured; what refuses it is told."""
    try:
        return latencies(program, system, chips)
    except AnePassesError as error:
        reason = first_line(error)
        click.echo(f"{name}, {system}: cannot be converted without passes: {reason}", err=True)
        return dict.fromkeys(chips)


def latencies(
    program: ExportedProgram, system: str, chips: Sequence[str]
) -> dict[str, float | None]:
    """Predicted milliseconds on each chip; ``None`` where nothing runs on the ANE.

    Raises:
        AnePassesError: it cannot be converted.
    """
    import coremltools as ct

    from lowering import convert, plan
    from lowering.planner.mil import read_program

    mlmodel = convert(program, minimum_deployment_target=ct.target[system], skip_model_load=True)
    read = read_program(mlmodel)
    found = {chip: plan(read, chip=chip).latency_ms for chip in chips}
    return {chip: None if latency is None else latency.ms for chip, latency in found.items()}


def table(rows: Sequence[Row]) -> Table:
    """A line for each model and system: the chip on which the passes win least, and most."""
    made = Table(box=None, pad_edge=False)
    for heading in ("model", "system", "chips", "least gain on", "ms", "ratio", "best", "slower"):
        made.add_column(
            heading, justify="left" if heading in ("model", "system") else "right", no_wrap=True
        )
    for name, system in dict.fromkeys((row.model, row.system) for row in rows):
        here = [row for row in rows if (row.model, row.system) == (name, system)]
        judged = sorted((row.ratio, row.chip, row) for row in here if row.ratio is not None)
        slower = [row.chip for row in here if row.slower]
        if not judged:
            made.add_row(name, system, str(len(here)), "–", "–", "–", "–", ", ".join(slower))
            continue
        worst, chip, row = judged[-1]
        made.add_row(
            name,
            system,
            str(len(judged)),
            chip,
            f"{row.without_ms:.3g} → {row.with_ms:.3g}",
            f"{worst:.3f}",
            f"{judged[0][0]:.3f}",
            ", ".join(slower) or "none",
        )
    return made


@click.command(help=__doc__)
@click.option("--only", "names", multiple=True, help="One of these, or any of the zoo; repeatable.")
@click.option("--chip", "chips", multiple=True, help="Default: every chip with a fit.")
@click.option("--system", "systems", multiple=True, type=click.Choice(SYSTEMS), default=SYSTEMS)
@click.option("--untargeted", is_flag=True, help="The default form where no chip is named.")
@json_option
@guarded
def main(
    names: tuple[str, ...],
    chips: tuple[str, ...],
    systems: tuple[str, ...],
    untargeted: bool,
    as_json: bool,
) -> None:
    """See the module."""
    backed = fitted_chips()
    unbacked = sorted(set(chips) - set(backed))
    if unbacked:
        raise click.UsageError(f"no fit for {', '.join(unbacked)}; there are {', '.join(backed)}")
    rows = [
        row
        for name in names or defaults()
        for row in rows_of(name, built(name), systems, chips or backed, targeted=not untargeted)
    ]
    slower = [row for row in rows if row.slower]
    if as_json:
        listed = [asdict(row) | {"ratio": row.ratio, "slower": row.slower} for row in rows]
        print_json({"kind": "predicted", "rows": listed, "slower": len(slower)})
    else:
        console = stdout_console()
        console.print(table(rows))
        console.print(
            f"\n{len(rows) - len(slower)} of {len(rows)} are predicted no slower than without "
            "passes.\nWithout passes → with the default ones, milliseconds, predicted, on the chip "
            "where that gains\nleast; ratio: with over without there; best: on the chip where it "
            "gains most."
        )
    if slower:
        sys.exit(EXIT_CHECK_FAILED)


if __name__ == "__main__":
    main()
