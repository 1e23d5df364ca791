"""Agreement of a package with its original as a task sees it, from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowering.verification.boxes import matched
from lowering.verification.original import VerificationError

# What a metric's mean must reach where nothing else is said: one of a hundred may differ.
AT_LEAST = 0.99

# Outputs of the package and of the original by name, in the same order; 1.0 is full agreement.
Metric = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], float]


def top1(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The share of rows of the first output whose largest score is at the same place."""
    ours, theirs = _first(found), _first(expected)
    same = ours.reshape(theirs.shape).argmax(-1) == theirs.argmax(-1)
    return float(same.double().mean())


def cosine(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The cosine between the first outputs, the mean over their rows; below 0 counts as 0."""
    ours, theirs = _first(found), _first(expected)
    rows = torch.nn.functional.cosine_similarity(
        ours.reshape(theirs.shape).double(), theirs.double(), dim=-1
    )
    return float(rows.mean().clamp(0.0, 1.0))


def mask(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The share of pixels of the first output that have the same class."""
    ours, theirs = _first(found), _first(expected)
    return float((ours.reshape(theirs.shape) == theirs).double().mean())


def boxes(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The share of boxes that both sides have, see ``matched``.

    Raises:
        VerificationError: the outputs are not those of a detector.
    """
    missing = [name for name in ("boxes", "classes", "count") if name not in found]
    if missing:
        raise VerificationError(
            "the metric 'boxes' needs the outputs of a detector",
            expected="outputs boxes, classes and count",
            found=", ".join(found),
            hint="name another metric, such as cosine",
        )
    return matched(found, expected)


def wer(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """One less the word error rate; of a ``Speech`` task, whose labels make words.

    Raises:
        VerificationError: always: without the task there are no words.
    """
    raise VerificationError(
        "the metric 'wer' needs the labels of a speech task",
        expected="a folder whose task is speech, of layout ctc",
        found=", ".join(found),
        hint="export the model with --task speech, or name another metric, such as cosine",
    )


METRICS: dict[str, Metric] = {
    "top1": top1,
    "cosine": cosine,
    "boxes": boxes,
    "mask": mask,
    "wer": wer,
}


def _first(outputs: Mapping[str, Tensor]) -> Tensor:
    value = next(iter(outputs.values()))
    return value if value.ndim else value.reshape(1)


@dataclass(frozen=True)
class Agreement:
    """What a metric says of a package.

    Attributes:
        metric: its name.
        values: one for each step.
        at_least: what their mean must reach.
        half: what torch itself reaches in half precision, one for each step; empty where it was
            not, or cannot be, run so.
    """

    metric: str
    values: tuple[float, ...]
    at_least: float
    half: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """Over the steps; NaN without any."""
        return _mean(self.values)

    @property
    def half_mean(self) -> float:
        """Of torch itself in half precision; NaN where it is not known."""
        return _mean(self.half)

    @property
    def passed(self) -> bool:
        """Whether the mean reaches what it must; NaN does not."""
        return self.mean >= self.at_least

    def to_json(self) -> dict[str, object]:
        """As a dictionary of plain values."""
        return {
            "metric": self.metric,
            "mean": self.mean,
            "values": list(self.values),
            "at_least": self.at_least,
            "half": list(self.half),
            "passed": self.passed,
        }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def metric_of(metric: str | Metric) -> Metric:
    """The metric of this name, or the function itself.

    Raises:
        VerificationError: there is no such metric.
    """
    if not isinstance(metric, str):
        return metric
    if metric not in METRICS:
        raise VerificationError(
            f"there is no metric {metric!r}",
            expected=", ".join(METRICS),
            hint="name one of these, or give a function of both sides' outputs",
        )
    return METRICS[metric]
