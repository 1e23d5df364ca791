"""What torch and a package make of pictures: labels, boxes and masks."""

from __future__ import annotations

from dataclasses import replace

import PIL.Image
import torch

import lowering
from lowering.verification.looks import Look, PictureLook
from tests.lowering.contract.shipping_models import LABELS, picture

SIZE = (64, 48)  # width, height


def labels(change=0.0):
    """Both sides of a classifier; ``change`` is added to the package's probability of a bee."""
    scores = torch.tensor([[0.5, 0.2, 0.15, 0.1, 0.05]])
    other = scores.clone()
    other[0, 1] += change
    task = lowering.Classify(LABELS, top_k=3)
    return task.looks({"probabilities": other}, {"probabilities": scores})


def boxes(moved=0.0):
    """Three boxes, the package's second to the side by ``moved`` of the picture."""
    there = torch.tensor([[[0.3, 0.4, 0.4, 0.5], [0.7, 0.6, 0.3, 0.4], [0.5, 0.5, 0.1, 0.1]]])
    side = {
        "boxes": there,
        "confidence": torch.tensor([[0.9, 0.8, 0.7]]),
        "classes": torch.tensor([[2, 3, 2]]),
        "count": torch.tensor([3]),
    }
    other = there.clone()
    other[0, 1, 0] += moved
    return lowering.Detect(LABELS, size=(48, 64)).looks({**side, "boxes": other}, side)


def masks(wrong=0):
    """Two classes, of which the package has ``wrong`` columns of pixels otherwise."""
    mask = torch.zeros(1, 48, 64, dtype=torch.int32)
    mask[:, :, 20:] = 1
    other = mask.clone()
    other[:, :, :wrong] = 1 - other[:, :, :wrong]
    return lowering.Segment(("sky", "sea"), size=(48, 64)).looks({"mask": other}, {"mask": mask})


def numbers(apart=0.0):
    """A vector."""
    value = torch.linspace(-1, 1, 8)[None]
    return lowering.Embed(False).looks({"embedding": value + apart}, {"embedding": value})


def shown(name: str, sides: tuple[Look, Look]) -> PictureLook:
    """With a picture."""
    seen: PIL.Image.Image = picture(size=SIZE)
    return PictureLook(name, *(replace(side, picture=seen) for side in sides))


def all_looks() -> tuple[PictureLook, ...]:
    """Each kind, the same on both sides and not."""
    made = (
        ("labels.png", labels()),
        ("labels-off.png", labels(0.1)),
        ("boxes.png", boxes()),
        ("boxes-off.png", boxes(0.2)),
        ("mask.png", masks()),
        ("mask-off.png", masks(3)),
    )
    return tuple(shown(name, sides) for name, sides in made)
