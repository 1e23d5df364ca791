"""Core ML's own plan (*planned*) beside ours (*predicted*)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frontend.errors import AnePassesError
from frontend.json_text import parse
from lowering.planner.export_compute_plan import FORMAT
from lowering.planner.result import OpPlan, Plan


class ComputePlanError(AnePassesError):
    """A compute plan file cannot be used."""


@dataclass(frozen=True)
class PlannedOp:
    """One operator of Core ML's plan.

    Attributes:
        name: first output.
        op_type: MIL type.
        outputs: names of its results.
        device: where Core ML prefers to run it, ``None`` when it does not say.
        supported: devices that can run it, as Core ML says.
        cost: share of the model's estimated work, 0 to 1, ``None`` when it does not say.
    """

    name: str
    op_type: str
    outputs: tuple[str, ...]
    device: str | None
    supported: frozenset[str]
    cost: float | None


@dataclass(frozen=True)
class PlacementDifference:
    """An operator that Core ML planned otherwise than predicted."""

    name: str
    op_type: str
    planned: str
    predicted: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """*Planned* beside *predicted*.

    Attributes:
        system: what Core ML's plan was made on.
        placement: (planned device, predicted device) to number of operators.
        capability: (ANE supported by plan, by prediction) to number of operators.
        planned: predicted operator name to the device Core ML planned.
        differences: operators placed otherwise, in program order.
        unmatched: operators of the prediction that Core ML's plan does not name, and the reverse;
            the compiler removes, adds and renames some.
    """

    system: Mapping[str, str]
    placement: Mapping[tuple[str, str], int]
    capability: Mapping[tuple[bool, bool], int]
    planned: Mapping[str, str]
    differences: tuple[PlacementDifference, ...]
    unmatched: tuple[tuple[str, ...], tuple[str, ...]]

    @property
    def agreement(self) -> float | None:
        """Share of matched operators placed alike, ``None`` when none was matched."""
        total = sum(self.placement.values())
        same = sum(count for (a, b), count in self.placement.items() if a == b)
        return same / total if total else None

    def to_json(self) -> dict[str, Any]:
        """Plain values; matrices are lists of ``{"planned", "predicted", "count"}``."""

        def matrix(counts: Mapping[Any, int]) -> list[dict[str, Any]]:
            return [
                {"planned": a, "predicted": b, "count": count} for (a, b), count in counts.items()
            ]

        return {
            "system": dict(self.system),
            "agreement": self.agreement,
            "placement": matrix(self.placement),
            "ane_capability": matrix(self.capability),
            "planned": dict(self.planned),
            "differences": [vars(difference) for difference in self.differences],
            "only_predicted": list(self.unmatched[0]),
            "only_planned": list(self.unmatched[1]),
        }


def read_compute_plan(path: str | Path) -> tuple[dict[str, str], list[PlannedOp]]:
    """The system and operators of a file that ``export_compute_plan`` wrote on a Mac.

    Raises:
        ComputePlanError: the file is missing or is no such plan.
    """
    path = Path(path)
    hint = "make one on a Mac: python -m lowering.planner.export_compute_plan MODEL -o plan.json"
    try:
        raw = parse(path.read_text("utf-8"))
        if raw["format"] != FORMAT:
            raise ComputePlanError(
                f"{path.name} was written by another version",
                expected=f"format {FORMAT}",
                found=f"format {raw['format']}",
                hint=hint,
            )
        ops = [
            PlannedOp(
                entry["name"],
                _mil_type(entry["operator"]),
                tuple(entry["outputs"]),
                entry["preferred"],
                frozenset(entry["supported"]),
                entry["cost"],
            )
            for entry in raw["operations"]
        ]
        return dict(raw["system"]), ops
    except OSError as error:
        raise ComputePlanError(
            f"there is no compute plan at {path}", found=str(error.strerror), hint=hint
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ComputePlanError(
            f"{path.name} is not a compute plan",
            expected="JSON written by lowering.planner.export_compute_plan",
            found=f"{type(error).__name__}: {error}",
            hint=hint,
        ) from error


def _mil_type(operator: str) -> str:
    """``ios17.conv`` is ``conv``."""
    return operator.rpartition(".")[2]


def compare(plan: Plan, system: Mapping[str, str], planned: list[PlannedOp]) -> Comparison:
    """Core ML's plan beside the prediction, operators matched by the names of their results."""
    by_output = {name: op for op in planned for name in (*op.outputs, op.name)}
    placement: Counter[tuple[str, str]] = Counter()
    capability: Counter[tuple[bool, bool]] = Counter()
    devices: dict[str, str] = {}
    differences, missing = [], []
    seen: set[str] = set()
    for op in plan.ops:
        match = _match(op, by_output)
        if match is None:
            missing.append(op.name)
            continue
        seen.add(match.name)
        if match.device is None:
            continue
        devices[op.name] = match.device
        placement[match.device, op.device] += 1
        capability["ane" in match.supported, "ane" in op.supported] += 1
        if match.device != op.device:
            reason = "" if op.reason is None else str(op.reason)
            differences.append(
                PlacementDifference(op.name, op.op_type, match.device, op.device, reason)
            )
    extra = tuple(op.name for op in planned if op.name not in seen)
    return Comparison(
        dict(system),
        placement,
        capability,
        devices,
        tuple(differences),
        (tuple(missing), extra),
    )


def _match(op: OpPlan, by_output: Mapping[str, PlannedOp]) -> PlannedOp | None:
    for name in (*op.outputs, op.name):
        found = by_output.get(name)
        if found is not None and found.op_type == op.op_type:
            return found
    return None
