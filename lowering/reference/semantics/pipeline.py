"""Stages of pipelines that are no programs, see ``lowering.package.pipeline``."""

from __future__ import annotations

from torch import Tensor

from lowering.package.pipeline import SUPPRESSION
from lowering.reference.binding import Semantics
from lowering.reference.semantics.tensor_ops import kept_boxes


def non_maximum_suppression(
    confidence: Tensor,
    coordinates: Tensor,
    iouThreshold: float,  # noqa: N803 (as Core ML names it)
    confidenceThreshold: float,  # noqa: N803
    per_class: bool,
) -> tuple[Tensor, Tensor]:
    """Confidences (kept, classes) and coordinates (kept, 4) of the boxes that stay.

    *Documented* in coremltools' NonMaximumSuppression.proto: boxes are taken by falling confidence
    of their best class, and each goes that overlaps one that was taken by more than the threshold.
    """
    scores = confidence.reshape(-1, confidence.shape[-1])
    boxes = coordinates.reshape(-1, coordinates.shape[-1])
    kept = kept_boxes(boxes, scores, iouThreshold, len(boxes), confidenceThreshold, per_class)
    return scores[kept], boxes[kept]


TABLE: dict[str, Semantics] = {SUPPRESSION: non_maximum_suppression}
