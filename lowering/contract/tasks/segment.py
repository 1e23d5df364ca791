"""A class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lowering.contract.tasks.base import (
    Named,
    OutputTask,
    Wanted,
    as_labels,
    chosen_output,
    label_problems,
    shapes_of,
    shown,
)
from lowering.verification.looks import Look, LookLine
from lowering.verification.original import Judge

# A class that covers so much more or less of the picture is marked.
_APART = 0.005


@dataclass(frozen=True)
class Segment(OutputTask):
    """The class of each pixel: ``mask`` (1, height, width), numbers of classes from 0.

    Attributes:
        labels: a text for each class; two where the model has one score a pixel, whose sign says
            which.
        size: height and width of the mask, to which scores are resized, bilinear; the picture's
            by default.
        scores: return the scores as well, ``scores`` (1, classes, height, width).
        output: the model's output (1, classes, height, width); the only one by default.
    """

    kind: ClassVar[str] = "segment"

    labels: tuple[str, ...]
    size: tuple[int, int] | None = None
    scores: bool = False
    output: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", as_labels(self.labels))

    def fitted(self, model: Wanted) -> Segment:
        """With the size of the only picture that ``model`` takes."""
        return self if self.size is not None else replace(self, size=model.picture_size)

    def problems(self, model: Wanted) -> Sequence[str]:
        """What keeps the task from fitting ``model``."""
        found = label_problems(self.labels)
        if self.size is None:
            found.append("size is missing: height and width of the mask")
        if self._name(model.outputs) is None:
            found.append(
                f"no single output has the shape [1, {len(self.labels)}, height, width]: "
                f"{shown(model.outputs)}"
            )
        return found

    def __call__(self, outputs: Named, inputs: Named) -> dict[str, Tensor]:
        """The mask."""
        name = self._name(shapes_of(outputs))
        assert name is not None and self.size is not None
        scores = outputs[name]
        if tuple(scores.shape[2:]) != self.size:
            scores = F.interpolate(scores, self.size, mode="bilinear", align_corners=False)
        mask = (scores[:, 0] > 0).int() if scores.shape[1] == 1 else scores.argmax(1).int()
        return {"mask": mask, **({"scores": scores} if self.scores else {})}

    def meanings(self) -> dict[str, str]:
        """What each output of the package is."""
        found = {"mask": "number of the class of each pixel, from 0, in the order of the labels"}
        return found | ({"scores": "of each class at each pixel"} if self.scores else {})

    def judges(self) -> dict[str, Judge]:
        """The mask by the share of its pixels that agree: edges move in float16."""
        return {"mask": _agreeing}

    def looks(self, found: Named, expected: Named) -> tuple[Look, Look]:
        """Both masks with the share of each class, largest first, and the pixels that differ."""
        masks = [side["mask"].reshape(expected["mask"].shape)[0] for side in (expected, found)]
        shares = [
            torch.bincount(m.long().clamp(min=0).flatten(), minlength=len(self.labels)) / m.numel()
            for m in masks
        ]
        apart = (shares[0][: len(self.labels)] - shares[1][: len(self.labels)]).abs() > _APART

        def look(mask: Tensor, share: Tensor) -> Look:
            order = share[: len(self.labels)].argsort(descending=True, stable=True).tolist()
            lines = [
                LookLine(self.labels[n], float(share[n]), bool(apart[n]), number=n)
                for n in order
                if share[n] > 0 or apart[n]
            ]
            return Look(tuple(lines), mask, masks[0] != masks[1])

        return look(masks[0], shares[0]), look(masks[1], shares[1])

    def _name(self, outputs: Mapping[str, tuple[int, ...]]) -> str | None:
        channels = {len(self.labels)} | ({1} if len(self.labels) == 2 else set())
        fitting = {
            name: shape
            for name, shape in outputs.items()
            if len(shape) == 4 and shape[0] == 1 and shape[1] in channels
        }
        return chosen_output(fitting, self.output, (4,))


def _agreeing(found: Named, expected: Named) -> tuple[Tensor, Tensor]:
    same = found["mask"].reshape(expected["mask"].shape) == expected["mask"]
    return same.double().mean().reshape(1), torch.ones(1, dtype=torch.float64)
