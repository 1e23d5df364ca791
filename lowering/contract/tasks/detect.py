"""Boxes around things in a picture, those that overlap better ones left out inside the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from frontend.ops import nms
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
from lowering.verification.boxes import SAME_BOX, aligned, pairs
from lowering.verification.looks import Look, LookLine
from lowering.verification.original import Judge

_LAYOUTS = ("yolov8", "end2end", "detr")
# How many axes the output with the boxes has, whatever the layout.
_AXES = 3


@dataclass(frozen=True)
class Detect(OutputTask):
    """The best boxes of a picture, in one ML Program.

    The package returns ``boxes`` (1, limit, 4): x and y of the centre, width and height, as shares
    of the picture that the model took (with ``crop="pad"`` its filled borders belong to it);
    ``confidence`` (1, limit), ``classes`` (1, limit) and ``count`` (1,). From ``count`` on all are
    zero. Best first. Boxes and confidence are float32 in a float16 package as well, and so is what
    decodes them, from the last layers on: coordinates beyond 256 are half pixels in float16.

    Attributes:
        labels: a text for each class.
        iou: boxes that share more than this of their union with a better one of their class go.
        confidence: what a box must reach.
        limit: how many boxes are returned at most.
        layout: ``yolov8`` (YOLOv8, 11, 12: (1, 4 + classes, boxes), boxes as centre and size in
            pixels, scores from 0 to 1); ``end2end`` (YOLOv10, 26: (1, boxes, 6), corners in
            pixels, score, class; nothing overlaps any more); ``detr`` (``logits`` (1, queries,
            classes and one for none) and ``pred_boxes`` (1, queries, 4) as shares).
        agnostic: boxes compete with those of other classes too.
        size: height and width of the picture in the model's pixels; by default its input's.
        output: the model's output with the boxes; by default the one that fits.
        scores: of ``detr``, the output with the scores.
    """

    kind: ClassVar[str] = "detect"

    labels: tuple[str, ...]
    iou: float = 0.7
    confidence: float = 0.25
    limit: int = 100
    layout: Literal["yolov8", "end2end", "detr"] = "yolov8"
    agnostic: bool = False
    size: tuple[int, int] | None = None
    output: str | None = None
    scores: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", as_labels(self.labels))

    def fitted(self, model: Wanted) -> Detect:
        """With the size of the only picture that ``model`` takes."""
        return self if self.size is not None else replace(self, size=model.picture_size)

    def problems(self, model: Wanted) -> Sequence[str]:
        """What keeps the task from fitting ``model``."""
        found = label_problems(self.labels)
        for share in ("iou", "confidence"):
            value = getattr(self, share)
            if not isinstance(value, int | float) or not 0 < value <= 1:
                found.append(f"{share} is {value!r}, not a number above 0, to 1")
        if not isinstance(self.limit, int) or isinstance(self.limit, bool) or self.limit < 1:
            found.append(f"limit is {self.limit!r}, not a whole number from 1 on")
        if self.layout not in _LAYOUTS:
            return [*found, f"layout is {self.layout!r}, not one of {', '.join(_LAYOUTS)}"]
        if self.layout != "detr" and self.size is None:
            found.append("size is missing: height and width of the picture in the model's pixels")
        if self.layout == "detr":
            return found + self._detr_problems(model)
        name = self._name(model.outputs)
        if name is None:
            what = f"[1, {4 + len(self.labels)}, boxes]"
            wanted = what if self.layout == "yolov8" else "[1, boxes, 6]"
            found.append(f"no single output has the shape {wanted}: {shown(model.outputs)}")
        return found

    def __call__(self, outputs: Named, inputs: Named) -> dict[str, Tensor]:
        """Boxes, confidences, classes, and how many."""
        boxes, scores, classes = getattr(self, f"_{self.layout}")(outputs)
        real = scores >= self.confidence
        kept = real.to(scores.dtype)
        return {
            "boxes": boxes * kept[..., None],
            "confidence": scores * kept,
            "classes": torch.where(real, classes, 0).int(),
            "count": kept.sum(-1).int(),
        }

    def meanings(self) -> dict[str, str]:
        """What each output of the package is."""
        return {
            "boxes": "x and y of the centre, width and height, as shares of the picture",
            "confidence": "of each box, from 0 to 1; best first",
            "classes": "number of the class of each box, from 0, in the order of the labels",
            "count": "how many boxes there are; the rest is zero",
        }

    def exact(self) -> tuple[str, ...]:
        """Boxes, of which float16 would move the far sides, and what they are ranked by."""
        return ("boxes", "confidence")

    def judges(self) -> dict[str, Judge]:
        """Boxes by what they are around: one that is as good may stand in another place."""

        def judge(name: str) -> Judge:
            def beside(found: Named, expected: Named) -> tuple[Tensor, Tensor]:
                return aligned(found, expected, self.confidence)[name]

            return beside

        return {name: judge(name) for name in self.meanings()}

    def looks(self, found: Named, expected: Named) -> tuple[Look, Look]:
        """The boxes of both sides; those that the other side has not are marked."""
        made = pairs(found, expected, SAME_BOX)
        return (
            self._look(expected, {theirs for _, theirs in made}),
            self._look(found, {ours for ours, _ in made}),
        )

    def _look(self, side: Named, shared: set[int]) -> Look:
        lines = []
        for row in range(int(side["count"].sum())):
            number = int(side["classes"][0, row])
            x, y, width, height = map(float, side["boxes"][0, row])
            known = 0 <= number < len(self.labels)
            lines.append(
                LookLine(
                    self.labels[number] if known else f"class {number}",
                    float(side["confidence"][0, row]),
                    row not in shared,
                    (x, y, width, height),
                )
            )
        return Look(tuple(lines))

    def _yolov8(self, outputs: Named) -> tuple[Tensor, Tensor, Tensor]:
        name = self._name(shapes_of(outputs))
        assert name is not None
        value = outputs[name].transpose(1, 2)
        boxes = value[..., :4] / self._sides(value)
        kept, scores, _ = nms(boxes, value[..., 4:], self.iou, self.limit, not self.agnostic)
        best, classes = scores.max(-1)
        return kept, best, classes

    def _end2end(self, outputs: Named) -> tuple[Tensor, Tensor, Tensor]:
        name = self._name(shapes_of(outputs))
        assert name is not None
        value = outputs[name]
        low, high = value[..., :2], value[..., 2:4]
        boxes = torch.cat([(low + high) / 2, high - low], -1) / self._sides(value)
        scores, rows = torch.topk(value[..., 4], min(self.limit, value.shape[1]), dim=-1)
        picked = _rows(boxes, rows)
        return self._filled(picked, scores, value[..., 5].gather(1, rows).round().int())

    def _detr(self, outputs: Named) -> tuple[Tensor, Tensor, Tensor]:
        where, what = self._detr_names(shapes_of(outputs))
        assert where is not None and what is not None
        best, classes = torch.softmax(outputs[what], -1)[..., :-1].max(-1)
        scores, rows = torch.topk(best, min(self.limit, best.shape[1]), dim=-1)
        return self._filled(_rows(outputs[where], rows), scores, classes.gather(1, rows).int())

    def _filled(
        self, boxes: Tensor, scores: Tensor, classes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As many as the limit says, the rest zeros."""
        more = self.limit - scores.shape[1]
        pad = torch.nn.functional.pad
        return pad(boxes, (0, 0, 0, more)), pad(scores, (0, more)), pad(classes, (0, more))

    def _sides(self, like: Tensor) -> Tensor:
        assert self.size is not None
        height, width = self.size
        return torch.tensor([width, height, width, height], dtype=like.dtype)

    def _name(self, outputs: Mapping[str, tuple[int, ...]]) -> str | None:
        axis, length = (1, 4 + len(self.labels)) if self.layout == "yolov8" else (2, 6)
        fitting = {
            name: shape
            for name, shape in outputs.items()
            if len(shape) == _AXES and shape[0] == 1 and shape[axis] == length
        }
        return chosen_output(fitting, self.output, (_AXES,))

    def _detr_names(self, outputs: Mapping[str, tuple[int, ...]]) -> tuple[str | None, str | None]:
        def ending_in(size: int) -> dict[str, tuple[int, ...]]:
            return {
                name: shape
                for name, shape in outputs.items()
                if len(shape) == _AXES and shape[0] == 1 and shape[2] == size
            }

        where, what = self.output or "pred_boxes", self.scores or "logits"
        return (
            chosen_output(ending_in(4), where, (_AXES,)),
            chosen_output(ending_in(len(self.labels) + 1), what, (_AXES,)),
        )

    def _detr_problems(self, model: Wanted) -> list[str]:
        where, what = self._detr_names(model.outputs)
        found = []
        if where is None:
            found.append(f"no output with boxes (1, queries, 4): {shown(model.outputs)}")
        if what is None:
            found.append(
                f"no output with scores of {len(self.labels)} classes and none "
                f"(1, queries, {len(self.labels) + 1}): {shown(model.outputs)}"
            )
        return found


def _rows(boxes: Tensor, rows: Tensor) -> Tensor:
    return boxes.gather(1, rows[..., None].expand(-1, -1, boxes.shape[-1]))
