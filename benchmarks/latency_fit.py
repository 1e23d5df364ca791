"""Fits the latency model on published measurements and says how well it predicts left-out ones.

    python -m benchmarks.latency_fit            # fit, print the report
    python -m benchmarks.latency_fit --write    # ... and store the fit beside the planner

Robust least squares on logarithms of milliseconds: eight shared rates, one factor per generation
of ANE and one per chip, and one per generation for the traffic of scores. The factors are drawn
towards 1, so that a chip with few rows does not simply repeat them. A chip without rows takes its
generation's factors; a generation without rows has no fit.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import lowering.planner
from lowering.planner import chip_names
from lowering.planner.features import Features
from lowering.planner.latency import Chip, Rates, chip_speeds

STORED = Path(lowering.planner.__file__).parent / "data/latency.json"
ROWS = Path(__file__).parent / "data/measured_latency.json"

# Where the search starts: orders of magnitude from the chips' published figures.
_START = Rates(
    host_ms=0.1,
    region_ms=0.4,
    compute=0.5,
    products=0.2,
    streaming=0.9,
    elements_per_s=2e10,
    traffic_bytes_per_s=6e10,
    palette_loads_per_s=2e10,
)
# Standard deviations, in logarithms: of the rates around their start, of a generation's and a
# chip's factor around 1, and of a generation's traffic.
_RATE_SIGMA = 1.0
# *Measured*: a boundary between programs took 0.4 ms on an M2 (2 parts against 4, eeane 2.1.0) and
# 0.7 to 1.5 ms elsewhere; the rows hardly tell it apart from the rest.
_REGION_SIGMA = 0.3
_GENERATION_SIGMA = 0.5
_CHIP_SIGMA = 0.4
_TRAFFIC_SIGMA = 0.5
# Errors beyond this count linearly, not squared: published rows hide mixed placements.
_HUBER = 0.15
_STEPS = 40
_LONGEST_STEP = 0.5
_NUDGE = 1e-4
# The interval aims at covering this share of left-out rows.
_COVERAGE_AIM = 0.95
# A chip with fewer rows borrows the spread of all chips.
_ENOUGH_ROWS = 8


@dataclass(frozen=True)
class Row:
    """One measured program; rows of one ``family`` are the same model."""

    id: str
    name: str
    family: str
    chip: str
    ms: float
    features: Features
    speeds: Chip


@dataclass(frozen=True)
class Fit:
    """Fitted rates, and factors per generation and per chip; ``traffic M2`` is of the traffic."""

    rates: Rates
    factors: dict[str, float]

    def factor(self, chip: str) -> float:
        """Factor of a chip; of its generation alone when it has no row; 1 when neither has."""
        return self.factors.get(generation(chip), 1.0) * self.factors.get(f"chip {chip}", 1.0)

    def traffic(self, chip: str) -> float:
        """Factor of the traffic's rate, of the chip's generation."""
        return self.factors.get(_traffic(chip), 1.0)

    def predict(self, row: Row) -> float:
        """Predicted milliseconds of ``row``."""
        return self.milliseconds(row.features, row.chip, row.speeds)

    def milliseconds(self, features: Features, chip: str, speeds: Chip) -> float:
        """Predicted milliseconds of ``features`` on a chip."""
        return self.rates.milliseconds(features, speeds, self.traffic(chip)) * self.factor(chip)


def generation(chip: str) -> str:
    """The chips of a generation have the same ANE: M1, M1 Pro, M1 Max and M1 Ultra."""
    return f"generation {chip.split(' ')[0]}"


def _traffic(chip: str) -> str:
    return f"traffic {generation(chip)}"


def read_rows(*, assumed: bool = False) -> list[Row]:
    """The measured rows that the package carries.

    Args:
        assumed: instead of the rows to fit on, those whose input length had to be assumed.
    """
    rows = []
    for entry in json.loads(ROWS.read_text())["rows"]:
        if bool(entry.get("assumed")) != assumed:
            continue
        speeds = chip_speeds(entry["chip"])
        if speeds is None:
            continue
        features = Features.from_json(entry["features"])
        name = f"{entry['model']}, {entry['variant']}"
        rows.append(
            Row(
                entry["id"],
                name,
                entry["family"],
                entry["chip"],
                entry["ms"],
                features,
                speeds,
            )
        )
    return rows


def fit(rows: Sequence[Row]) -> Fit:
    """Rates and factors that fit ``rows`` best."""
    generations = sorted({generation(row.chip) for row in rows})
    factors = [*generations, *sorted({f"chip {row.chip}" for row in rows})]
    names = [*factors, *sorted({_traffic(row.chip) for row in rows})]
    start = np.log(list(vars(_START).values()))
    centre = np.concatenate([start, np.zeros(len(names))])
    sigma = np.full(len(centre), _CHIP_SIGMA)
    sigma[: len(start)] = _RATE_SIGMA
    sigma[list(vars(_START)).index("region_ms")] = _REGION_SIGMA
    sigma[len(start) : len(start) + len(generations)] = _GENERATION_SIGMA
    sigma[len(start) + len(factors) :] = _TRAFFIC_SIGMA
    prior = 1 / sigma**2
    target = np.log([row.ms for row in rows])

    def found_at(values: np.ndarray) -> Fit:
        return Fit(
            Rates(*(float(value) for value in np.exp(values[: len(start)]))),
            dict(zip(names, map(float, np.exp(values[len(start) :])), strict=True)),
        )

    def predicted(values: np.ndarray) -> np.ndarray:
        fitted = found_at(values)
        return np.array([math.log(fitted.predict(row)) for row in rows])

    theta = centre.copy()
    for _ in range(_STEPS):
        base = predicted(theta)
        residual = target - base
        # Errors are in units of the spread that good rows show.
        weight = np.minimum(1.0, _HUBER / np.maximum(np.abs(residual), 1e-9)) / _HUBER**2
        jacobian = np.zeros((len(rows), len(theta)))
        for at in range(len(theta)):
            nudged = theta.copy()
            nudged[at] += _NUDGE
            jacobian[:, at] = (predicted(nudged) - base) / _NUDGE
        weighted = jacobian.T * weight
        step = np.linalg.solve(
            weighted @ jacobian + np.diag(prior),
            weighted @ residual - prior * (theta - centre),
        )
        theta = theta + np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)
        if np.abs(step).max() < _NUDGE:
            break
    return found_at(theta)


def leave_one_out(rows: Sequence[Row], *, whole_model: bool = False) -> list[float]:
    """Logarithms of measured over predicted, each row predicted by a fit that never saw it.

    Args:
        rows: measured programs.
        whole_model: leave out every row of the same model on the same chip as well.
    """
    models: dict[tuple[str, str], Fit] = {}
    errors = []
    for at, row in enumerate(rows):
        same = (row.family, row.chip)
        if not whole_model:
            found = fit([other for index, other in enumerate(rows) if index != at])
        elif same in models:
            found = models[same]
        else:
            rest = [other for other in rows if (other.family, other.chip) != same]
            found = models[same] = fit(rest)
        errors.append(math.log(row.ms / found.predict(row)))
    return errors


def spread(errors: Sequence[float]) -> float:
    """Factor up and down that would have covered the aimed-at share of ``errors``."""
    sizes = sorted(abs(error) for error in errors)
    at = min(math.ceil(_COVERAGE_AIM * (len(sizes) + 1)), len(sizes)) - 1
    return math.exp(sizes[at])


def chip_spread(chip: str, rows: Sequence[Row], errors: Sequence[float]) -> float:
    """Interval factor of a chip: from its own rows when there are enough, else from all."""
    own = [error for row, error in zip(rows, errors, strict=True) if row.chip == chip]
    return spread(own if len(own) >= _ENOUGH_ROWS else errors)


def covered(rows: Sequence[Row], errors: Sequence[float]) -> list[bool]:
    """Whether each row lies in an interval that its own error did not help to set."""
    inside = []
    for at, (row, error) in enumerate(zip(rows, errors, strict=True)):
        other_rows = [*rows[:at], *rows[at + 1 :]]
        other_errors = [*errors[:at], *errors[at + 1 :]]
        inside.append(abs(error) <= math.log(chip_spread(row.chip, other_rows, other_errors)))
    return inside


def relative(error: float) -> float:
    """Relative error of a prediction, from the logarithm of measured over predicted."""
    return abs(math.exp(-error) - 1)


def report(rows: Sequence[Row]) -> dict[str, Any]:
    """The fit, its residuals and how it predicts rows it never saw, per chip."""
    found = fit(rows)
    errors = leave_one_out(rows)
    model_errors = leave_one_out(rows, whole_model=True)
    inside = covered(rows, errors)
    measured: dict[str, list[int]] = defaultdict(list)
    for at, row in enumerate(rows):
        measured[row.chip].append(at)
    entries: dict[str, dict[str, Any]] = {}
    for chip in chip_names():
        kin = [other for other in measured if generation(other) == generation(chip)]
        if not kin or chip_speeds(chip) is None:
            continue
        entries[chip] = {
            "rows": len(measured.get(chip, ())),
            "from": kin,
            "factor": found.factor(chip),
            "traffic": found.traffic(chip),
            "interval_factor": chip_spread(chip, rows, errors),
        }
        if chip in measured:
            members = measured[chip]
            entries[chip] |= {
                "median_error": _median(errors[at] for at in members),
                "median_error_new_model": _median(model_errors[at] for at in members),
                "rms_error": _rms(found.predict(rows[at]) / rows[at].ms - 1 for at in members),
                "rms_error_new_model": _rms(math.exp(-model_errors[at]) - 1 for at in members),
                "covered": float(np.mean([inside[at] for at in members])),
            }
    return {
        "rates": vars(found.rates),
        "coverage": float(np.mean(inside)),
        "chips": entries,
        "residuals": [
            {
                "id": row.id,
                "chip": row.chip,
                "program": row.name,
                "measured_ms": row.ms,
                "fitted_ms": round(found.predict(row), 4),
                "left_out_ms": round(row.ms / math.exp(errors[at]), 4),
                "new_model_ms": round(row.ms / math.exp(model_errors[at]), 4),
                "covered": bool(inside[at]),
            }
            for at, row in enumerate(rows)
        ],
        "not_fitted": [
            {
                "chip": row.chip,
                "program": row.name,
                "why": "its input length is assumed",
                "measured_ms": row.ms,
                "predicted_ms": round(found.predict(row), 4),
            }
            for row in read_rows(assumed=True)
        ],
    }


def _median(errors: Iterable[float]) -> float:
    return float(np.median([relative(error) for error in errors]))


def _rms(errors: Iterable[float]) -> float:
    return float(np.sqrt(np.mean(np.square(list(errors)))))


def main() -> None:
    """Fit, print, and store when asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--write", action="store_true", help=f"store the fit in {STORED.name}")
    arguments = parser.parse_args()
    result = report(read_rows())
    print(json.dumps(result, indent=1))
    if arguments.write:
        about = "Fit of the latency model (benchmarks/latency_fit.py) on measured_latency.json."
        STORED.write_text(json.dumps({"about": about, **result}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
