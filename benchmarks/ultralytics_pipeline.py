"""YOLO with its suppression inside, beside ultralytics' own Core ML export of the same model.

Ultralytics writes a pipeline: an ML Program, then Core ML's own suppression of boxes. The
interpreter runs both packages on the same pictures; what each keeps is held against torch, and both
against each other: the share of boxes of the same class that share 95 % of their union.

Exit codes: 0 both keep what torch keeps, 1 one does not, 2 the call needs attention.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import PIL.Image
import torch
from rich.table import Table
from torch import Tensor

import lowering
from benchmarks.recipes import BoxesAlone, clear_confidence, yolo_model
from benchmarks.zoo.torchvision_python import importable_torchvision
from lowering import Detect, Image
from lowering.cli.common import EXIT_CHECK_FAILED, guarded, json_option, print_json, stdout_console
from lowering.contract.pictures import normalised, pixels, prepared
from lowering.verification.boxes import matched

# What is asked of detectors: of a hundred boxes one may be another.
AT_LEAST = 0.99
_IOU = 0.7
_LIMIT = 300
# How many boxes of a picture reach the confidence, about.
_BOXES = (10, 40)


@click.command(help=__doc__)
@click.option("--model", "file", default="yolov8n.yaml", show_default=True, help="A YOLO's file.")
@click.option("--size", type=click.IntRange(min=64), default=320, show_default=True)
@click.option("--pictures", "count", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--precision", type=click.Choice(("float16", "float32")), default="float32")
@json_option
@guarded
def main(file: str, size: int, count: int, precision: str, as_json: bool) -> None:
    """See the module."""
    torch.manual_seed(0)
    image = Image((size, size))
    pictures = sights(size, count)
    seen = [normalised(image, pixels(image, prepared(image, picture))) for picture in pictures]
    model = yolo_model(file, image, seen)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        theirs = exported_by_ultralytics(model, file, size, precision, Path(folder))
        loaded = lowering.load(str(theirs), precision="fp16")
        for boxes in _BOXES:
            rows += _rows(model, image, loaded, pictures, boxes, precision, folder)
    if as_json:
        print_json(rows)
    else:
        stdout_console().print(_table(rows))
    if any(min(row["ours"], row["ultralytics"]) < AT_LEAST for row in rows):
        sys.exit(EXIT_CHECK_FAILED)


def _rows(
    model: Any,
    image: Image,
    theirs: lowering.LoadedModel,
    pictures: Sequence[PIL.Image.Image],
    boxes: int,
    precision: str,
    folder: str,
) -> list[dict[str, Any]]:
    """Shares of matched boxes, a row for each picture; confidence by the scores in all of them."""
    seen = [normalised(image, pixels(image, prepared(image, p))) for p in pictures]
    with torch.no_grad():
        raw = [model(values)[0] for values in seen]
    confidence = clear_confidence(
        torch.cat([found[0, 4:].amax(0) for found in raw]), boxes * len(pictures)
    )
    labels = tuple(model.names[number] for number in range(len(model.names)))
    task = Detect(labels, iou=_IOU, confidence=confidence, limit=_LIMIT, size=image.size)
    contract = lowering.export(
        BoxesAlone(model),
        (torch.rand(image.shape),),
        Path(folder) / "ours",
        inputs={"images": image},
        task=task,
        precision=precision,
        overwrite=True,
    )
    ours = lowering.load(lowering.convert(contract, skip_model_load=True))
    rows = []
    for number, (picture, found) in enumerate(zip(pictures, raw, strict=True)):
        torch_keeps = task({"found": found}, {})
        we_keep = _tensors(lowering.predict(ours, {"images": picture}))
        they_keep = of_pipeline(
            theirs.run(
                {
                    "image": prepared(image, picture),
                    "iouThreshold": np.array([_IOU]),
                    "confidenceThreshold": np.array([confidence]),
                }
            )
        )
        rows.append(
            {
                "picture": number + 1,
                "boxes": int(torch_keeps["count"]),
                "ours": matched(we_keep, torch_keeps),
                "ultralytics": matched(they_keep, torch_keeps),
                "both": matched(we_keep, they_keep),
            }
        )
    return rows


def exported_by_ultralytics(model: Any, file: str, size: int, precision: str, folder: Path) -> Path:
    """What ``YOLO.export(format="coreml", nms=True)`` writes for ``model``."""
    with importable_torchvision():
        from ultralytics import YOLO

        yolo = YOLO(file, task="detect", verbose=False)
        yolo.model.load_state_dict(model.state_dict())
        weights = folder / "model.pt"
        yolo.save(str(weights))
        again = YOLO(str(weights))
        quantize = 16 if precision == "float16" else 32
        return Path(again.export(format="coreml", nms=True, imgsz=size, quantize=quantize))


def of_pipeline(found: Mapping[str, Any]) -> dict[str, Tensor]:
    """Boxes of a pipeline in the form of ``Detect``'s."""
    scores = torch.from_numpy(np.asarray(found["confidence"], np.float32))
    boxes = torch.from_numpy(np.asarray(found["coordinates"], np.float32))
    if not len(scores):
        empty = torch.zeros(1, 0)
        return {"boxes": torch.zeros(1, 0, 4), "confidence": empty, "classes": empty.int()} | {
            "count": torch.zeros(1, dtype=torch.int32)
        }
    best, classes = scores.max(-1)
    return {
        "boxes": boxes[None],
        "confidence": best[None],
        "classes": classes.int()[None],
        "count": torch.tensor([len(best)], dtype=torch.int32),
    }


def sights(size: int, count: int) -> list[PIL.Image.Image]:
    """Pictures with things in them: rectangles and ellipses of one colour over soft colours."""
    generator = np.random.default_rng(0)
    down, across = np.mgrid[0:size, 0:size] / size
    found = []
    for _ in range(count):
        soft = generator.integers(0, 256, (5, 6, 3)).astype(np.uint8)
        values = np.array(PIL.Image.fromarray(soft).resize((size, size), 3)).astype(int)
        for kind in range(8):
            y, x = generator.uniform(0.1, 0.9, 2)
            high, wide = generator.uniform(0.05, 0.3, 2)
            v, u = (down - y) / high, (across - x) / wide
            inside = (abs(u) < 1) & (abs(v) < 1) if kind % 2 else u * u + v * v < 1
            values[inside] = generator.integers(0, 256, 3)
        values += generator.integers(-12, 13, values.shape)
        found.append(PIL.Image.fromarray(values.clip(0, 255).astype(np.uint8)))
    return found


def _tensors(found: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.asarray(value)) for name, value in found.items()}


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    made = Table("picture", "boxes of torch", "ours", "ultralytics'", "ours and theirs")
    for row in rows:
        shares = (f"{row[name]:.3f}" for name in ("ours", "ultralytics", "both"))
        made.add_row(str(row["picture"]), str(row["boxes"]), *shares)
    return made


if __name__ == "__main__":
    main()
