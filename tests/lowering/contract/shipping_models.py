"""A small classifier of pictures, and pictures of many kinds."""

from __future__ import annotations

import numpy as np
import PIL.Image
import torch
from torch import nn

import lowering

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LABELS = ("ant", "bee", "cat", "dog", "eel")


def classifier(size=(8, 8), channels=3, seed=0):
    torch.manual_seed(seed)
    body = nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )
    return nn.Sequential(*body, nn.Linear(64, len(LABELS))).eval(), torch.randn(1, channels, *size)


def exported(folder, *, size=(8, 8), task=True, precision="float32", **image):
    model, x = classifier(size, 1 if image.get("layout") == "GRAY" else 3)
    settings = {"mean": MEAN, "std": STD, **image}
    return lowering.export(
        model,
        (x,),
        folder,
        inputs={"input": lowering.Image(size, **settings)},
        task=lowering.Classify(LABELS, top_k=2) if task else None,
        precision=precision,
        overwrite=True,
    )


def picture(mode="RGB", size=(23, 17), seed=0):
    """Colours that differ, and noise; of ``size`` (width, height)."""
    generator = np.random.default_rng(seed)
    width, height = size
    values = generator.integers(0, 120, (height, width, 3))
    values[..., 0] += 120
    values[..., 1] += np.linspace(0, 100, width).astype(int)
    image = PIL.Image.fromarray(values.astype(np.uint8))
    if mode == "I;16":
        return PIL.Image.fromarray((values[..., 1] * 257).astype(np.uint16))
    if mode == "RGBA":
        image.putalpha(PIL.Image.fromarray(values[..., 2].astype(np.uint8)))
        return image
    return image.convert(mode)
