"""``lowering.ship``: every line of the checklist on a folder and its package."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from frontend.errors import AnePassesError
from lowering.contract.folder import open_folder
from lowering.contract.pictures import Picture
from lowering.contract.ship import device, rows
from lowering.contract.ship.looked_at import Shipped
from lowering.contract.ship.result import Checklist, Row

# What looks at the package.
_MADE = ("package",)
# What runs it as the contract says.
_RUN = ("package", "contract")
# What compares it with the model.
_COMPARED = (*_RUN, "pure forward", "finite")

# Each line, and those that must have passed for it to mean anything.
_LINES: tuple[tuple[Callable[[Shipped], Row], tuple[str, ...]], ...] = (
    (rows.inference_mode, ()),
    (rows.pure, ("inference mode",)),
    (rows.varied, ("pure forward",)),
    (rows.package, ("inference mode",)),
    (rows.contract_digest, _MADE),
    (rows.sizes, _MADE),
    (rows.states, _MADE),
    (rows.precision, _MADE),
    (rows.labels, _RUN),
    (rows.finite, _RUN),
    (rows.preprocessing, _COMPARED),
    (rows.accuracy, (*_COMPARED, "preprocessing")),
    (rows.metric, (*_COMPARED, "preprocessing", "accuracy")),
    (rows.compression, _MADE),
    (rows.size, (*_MADE, "precision")),
    (rows.placement, (*_MADE, "precision")),
    (rows.fallback, (*_MADE, "precision")),
    (device.compute_plan, _MADE),
    (device.latency, _MADE),
    (device.instruments, ()),
    (device.power, ()),
    (device.memory, ()),
    (device.breakpoints, ()),
)


def ship(
    folder: str | os.PathLike[str],
    *,
    package: str | os.PathLike[str] | None = None,
    pictures: Sequence[Picture] = (),
    chip: str = "M4",
    planned: str | os.PathLike[str] | None = None,
    trust: bool = False,
) -> Checklist:
    """Go through the checklist before a model is shipped.

    Args:
        folder: what :func:`lowering.export` wrote.
        package: its package; by default NAME.mlpackage beside the folder, else one is converted.
        pictures: to verify on, beside our own.
        chip: to predict placement for.
        planned: the compute plan that Core ML wrote on a Mac.
        trust: run the code that the program's file asks for.

    Returns:
        A line for each thing, with pass, fail or skip, evidence, and for a skip the command.
    """
    label = Path(folder).name
    try:
        opened = open_folder(folder, trust=trust)
    except AnePassesError as error:
        command = f"ane-passes export MODEL -o {folder}"
        broken = Row("folder", "fail", str(error), command)
        left = [_name(line) for line, _ in _LINES]
        skipped = (Row(name, "skip", "the folder cannot be read", command) for name in left)
        return Checklist(label, (broken, *skipped))
    subject = Shipped(
        opened,
        None if package is None else Path(package),
        pictures,
        chip,
        None if planned is None else Path(planned),
    )
    found = [Row("folder", "pass", "contract and program fit")]
    # The failing line that each line which says nothing rests on, and each failing one itself.
    resting: dict[str, str] = {}
    for line, needs in _LINES:
        name = _name(line)
        failed = next((resting[need] for need in needs if need in resting), None)
        if failed is not None:
            resting[name] = failed
            command = f"ane-passes check {folder} --ship, when {failed} passes"
            found.append(Row(name, "skip", f"rests on {failed}, which fails", command))
            continue
        try:
            found.append(line(subject))
        except AnePassesError as error:
            found.append(Row(name, "fail", str(error), "see the message"))
        if found[-1].status == "fail":
            resting[name] = name
    return Checklist(opened.contract.name, tuple(found))


def _name(line: Callable[[Shipped], Row]) -> str:
    """The name that the line's row has."""
    return {"pure": "pure forward", "varied": "varied inputs", "contract_digest": "contract"}.get(
        line.__name__, line.__name__.replace("_", " ")
    )
