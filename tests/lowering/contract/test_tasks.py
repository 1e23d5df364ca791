"""What is done with outputs inside a package, held against plain torch and by hand."""

from typing import Any

import coremltools as ct
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lowering
from frontend.ops import nms
from lowering.contract import pictures
from lowering.contract.tasks.base import Wanted
from lowering.verification.boxes import matched, overlaps
from tests.lowering.contract.shipping_models import LABELS

# What no type checker lets through.
UNKNOWN: dict[str, dict[str, Any]] = {"layout": {"layout": "ssd"}, "pool": {"pool": "max"}}


class Returns(nn.Module):
    """What it was given, by names, a little of its input added so that it is computed."""

    def __init__(self, **values):
        super().__init__()
        self.names = tuple(values)
        for name, value in values.items():
            self.register_buffer(name, value)

    def forward(self, x):
        return {name: getattr(self, name) + 0 * x.mean() for name in self.names}


def packaged(tmp_path, model, task, precision="float32", target="iOS17", size=(8, 8)):
    folder = lowering.export(
        model,
        (torch.rand(1, 3, *size),),
        tmp_path / "task",
        inputs={"x": lowering.Image(size)},
        task=task,
        precision=precision,
        target=target,
        overwrite=True,
    )
    package = lowering.convert(folder, skip_model_load=True, pipeline=())
    found = lowering.verify(package, folder)
    assert found, found
    picture = pictures.telling_picture(*size)
    return lowering.predict(package, {"x": picture})


def yolo(count, classes=5, seed=0):
    """Scores and boxes of (1, 4 + classes, 40), of which ``count`` are far apart and confident."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.zeros(1, 4 + classes, 40)
    value[:, 4:] = torch.rand(1, classes, 40, generator=generator) * 0.2
    for row in range(40):
        value[0, :4, row] = torch.tensor([0.5 + row % 8, 0.5 + row // 8, 0.6, 0.8])
    for row in range(count):
        value[0, 4 + row % classes, row] = 0.9 - row * 0.01
    return value


@pytest.mark.parametrize(
    ("count", "target"), [(0, "iOS17"), (1, "iOS16"), (6, "iOS17"), (9, "iOS16"), (9, "iOS17")]
)
def test_boxes_from_none_to_more_than_the_limit(count, target, tmp_path):
    model = Returns(out=yolo(count))
    task = lowering.Detect(LABELS, limit=6)
    found = packaged(tmp_path, model, task, target=target)
    kept = min(count, 6)
    assert found["count"].tolist() == [kept]
    assert found["classes"][0].tolist() == [row % 5 for row in range(kept)] + [0] * (6 - kept)
    for row in range(6):
        box = [(0.5 + row) / 8, 0.5 / 8, 0.6 / 8, 0.8 / 8] if row < kept else [0.0] * 4
        assert found["boxes"][0, row].tolist() == pytest.approx(box, abs=1e-6)
        assert found["confidence"][0, row] == pytest.approx(0.9 - row * 0.01 if row < kept else 0)


def plain_nms(boxes, scores, iou, agnostic):
    """By the definition, pair by pair."""
    best, label = scores.max(-1)
    kept = []
    for row in sorted(range(len(boxes)), key=lambda i: (-float(best[i]), i)):
        shared = overlaps(boxes[row : row + 1], boxes[kept]).flatten() if kept else torch.zeros(0)
        rivals = [agnostic or label[row] == label[other] for other in kept]
        if not any(r and s > iou for r, s in zip(rivals, shared.tolist(), strict=True)):
            kept.append(row)
    return kept


@pytest.mark.parametrize("agnostic", [True, False])
@pytest.mark.parametrize("iou", [0.1, 0.5, 0.9])
def test_suppression_is_the_textbook_one(iou, agnostic):
    generator = torch.Generator().manual_seed(3)
    boxes = torch.rand(30, 4, generator=generator) * 0.5 + 0.1
    scores = torch.rand(30, 3, generator=generator)
    want = plain_nms(boxes, scores, iou, agnostic)
    found, _, rows = nms(boxes[None], scores[None], iou, 40, not agnostic)
    assert rows[0].tolist() == want + [-1] * (40 - len(want))
    assert torch.equal(found[0, : len(want)], boxes[want])
    assert iou > 0.8 or len(want) < 30


def test_boxes_in_half_precision_are_matched(tmp_path):
    found = packaged(tmp_path, Returns(out=yolo(9)), lowering.Detect(LABELS), "float16")
    assert found["count"].tolist() == [9]


def test_layouts_of_boxes(tmp_path):
    rows = torch.zeros(1, 5, 6)
    rows[0, 0] = torch.tensor([0, 2, 4, 8, 0.6, 3.0])
    rows[0, 3] = torch.tensor([4, 0, 8, 2, 0.8, 1.0])
    found = packaged(
        tmp_path, Returns(out=rows), lowering.Detect(LABELS, layout="end2end", limit=7)
    )
    assert found["count"].tolist() == [2] and found["classes"][0, :2].tolist() == [1, 3]
    assert found["boxes"][0, :2].tolist() == [
        pytest.approx([0.75, 0.125, 0.5, 0.25]),
        pytest.approx([0.25, 0.625, 0.5, 0.75]),
    ]
    logits = torch.full((1, 4, 6), -4.0)
    logits[..., 5] = 3  # nothing there
    logits[0, 2, 4], logits[0, 2, 5] = 6, -4
    found = packaged(
        tmp_path,
        Returns(logits=logits, pred_boxes=torch.rand(1, 4, 4)),
        lowering.Detect(LABELS, layout="detr", limit=3),
    )
    assert found["count"].tolist() == [1] and found["classes"].tolist() == [[4, 0, 0]]


class Far(nn.Module):
    """A layer, and small boxes at the far end of a picture, as each layout has them."""

    def __init__(self, layout):
        super().__init__()
        torch.manual_seed(2)
        self.layout, self.layer = layout, nn.Conv2d(3, 10, 2, stride=2)
        place = torch.arange(16.0)
        self.register_buffer("places", torch.stack([430 + 13.3 * place, 635 - 7.7 * place], -1))

    def forward(self, x):
        found = self.layer(x).flatten(2).transpose(1, 2)
        centres, sides = self.places + found[..., :2], found[..., 2:4].sigmoid() * 4 + 3
        if self.layout == "detr":
            boxes = torch.cat([centres, sides], -1) / 640
            return {"logits": found[..., 4:] * 5, "pred_boxes": boxes}
        scores = found[..., 4:9].sigmoid()
        if self.layout == "yolov8":
            return torch.cat([centres, sides, scores], -1).transpose(1, 2)
        best, classes = scores.max(-1, keepdim=True)
        corners = centres - sides / 2, centres + sides / 2
        return torch.cat([*corners, best, classes.float()], -1)


@pytest.mark.parametrize("precision", ["float16", "safe"])
@pytest.mark.parametrize("layout", ["yolov8", "end2end", "detr"])
def test_small_boxes_far_from_the_origin_keep_their_place_in_float16(layout, precision, tmp_path):
    model, side = Far(layout).eval(), (8, 8)
    task = lowering.Detect(LABELS, layout=layout, size=(640, 640), limit=20, confidence=0.05)
    found = packaged(tmp_path, model, task, precision)
    image = lowering.Image(side)
    picture = pictures.telling_picture(*side)
    seen = pictures.normalised(image, pictures.pixels(image, pictures.prepared(image, picture)))
    with torch.no_grad():
        made = model(seen)
    want = task(made if isinstance(made, dict) else {"out": made}, {})
    got = {name: torch.from_numpy(value) for name, value in found.items()}
    assert int(want["count"]) >= 5
    assert matched(got, want) == 1
    pairs_of = overlaps(got["boxes"][0].double(), want["boxes"][0].double()).amax(0)
    # In float16 steps of half a pixel leave 0.85 of such boxes.
    assert pairs_of[: int(want["count"])].min() > 0.99


def test_a_lost_box_is_not_forgiven():
    task = lowering.Detect(LABELS, size=(8, 8), limit=6)
    expected = task({"out": yolo(4)}, {})
    for change in ("count", "boxes", "classes"):
        found = {name: value.clone() for name, value in expected.items()}
        found[change][..., 1 if change != "count" else 0] += 1
        judged = {name: judge(found, expected) for name, judge in task.judges().items()}
        apart = [float((a.double() - b.double()).norm()) for a, b in judged.values()]
        assert max(apart) > 0.1, change
        assert matched(found, expected) < 1.0
    assert matched(expected, expected) == 1.0
    assert all(torch.equal(*judge(expected, expected)) for judge in task.judges().values())


@pytest.mark.parametrize(
    ("factor", "precision"), [(1e-4, "float16"), (1.0, "float32"), (3000.0, "float16")]
)
def test_embeddings_have_length_one(factor, precision, tmp_path):
    value = torch.randn(1, 64, generator=torch.Generator().manual_seed(0)) * factor
    found = packaged(tmp_path, Returns(out=value), lowering.Embed(), precision)
    vector = torch.from_numpy(found["embedding"]).float()
    assert float(vector.norm()) == pytest.approx(1.0, abs=2e-3)
    assert float(F.cosine_similarity(vector, value)) > 1 - (1e-5 if factor > 1e-3 else 1e-3)


@pytest.mark.parametrize("pool", ["mean", "first"])
def test_pools_of_tokens(pool, tmp_path):
    value = torch.randn(1, 6, 8)
    found = packaged(tmp_path, Returns(out=value), lowering.Embed(False, pool))
    want = value.mean(1) if pool == "mean" else value[:, 0]
    torch.testing.assert_close(torch.from_numpy(found["embedding"]), want)
    if pool == "mean":
        mask = torch.tensor([[1, 1, 0, 1, 0, 0]])
        (vector,) = lowering.Embed(False, "mean", "m")({"out": value}, {"m": mask}).values()
        torch.testing.assert_close(vector, value[:, [0, 1, 3]].mean(1))


@pytest.mark.parametrize("classes", [1, 3])
def test_masks(classes, tmp_path):
    value = torch.randn(1, classes, 4, 4)
    labels = ("back", "front") if classes == 1 else ("a", "b", "c")
    found = packaged(tmp_path, Returns(out=value), lowering.Segment(labels, scores=True))
    whole = F.interpolate(value, (8, 8), mode="bilinear", align_corners=False)
    want = (whole[:, 0] > 0).int() if classes == 1 else whole.argmax(1).int()
    assert torch.equal(torch.from_numpy(found["mask"]).int(), want)
    assert found["scores"].shape == (1, classes, 8, 8)


@pytest.mark.parametrize(
    ("task", "outputs", "words"),
    [
        (lowering.Detect(LABELS), {"out": (1, 9, 40)}, "size is missing"),
        (lowering.Detect(LABELS, size=(8, 8)), {"out": (1, 8, 40)}, "no single output"),
        (lowering.Detect(LABELS, size=(8, 8)), {"a": (1, 9, 4), "b": (1, 9, 3)}, "no single"),
        (lowering.Detect(LABELS, iou=0, size=(8, 8)), {"out": (1, 9, 40)}, "iou is 0"),
        (lowering.Detect(LABELS, limit=0, size=(8, 8)), {"out": (1, 9, 40)}, "limit is 0"),
        (lowering.Detect(LABELS, **UNKNOWN["layout"]), {"out": (1, 9, 40)}, "layout is 'ssd'"),
        (lowering.Detect(LABELS, layout="detr"), {"logits": (1, 4, 6)}, "no output with boxes"),
        (lowering.Embed(), {"a": (1, 4), "b": (1, 5)}, "no single output has 2 axes"),
        (lowering.Embed(), {"a": (2, 4)}, "2 examples"),
        (lowering.Embed(**UNKNOWN["pool"]), {"a": (1, 4)}, "pool is 'max'"),
        (lowering.Embed(pool="mean", mask="m"), {"a": (1, 4, 8)}, "no input of shape"),
        (lowering.Segment(("a", "b", "c")), {"a": (1, 2, 4, 4)}, "no single output"),
    ],
)
def test_tasks_that_do_not_fit(task, outputs, words):
    assert any(words in problem for problem in task.problems(Wanted(outputs, {})))


def test_targets_below_ios17_use_the_older_operator(tmp_path):
    model = Returns(out=yolo(2))
    folder = lowering.export(
        model,
        (torch.rand(1, 3, 8, 8),),
        tmp_path / "old",
        inputs={"x": lowering.Image((8, 8))},
        task=lowering.Detect(LABELS),
        target="iOS16",
    )
    spec = lowering.convert(folder, skip_model_load=True, pipeline=()).get_spec()
    block = spec.mlProgram.functions["main"].block_specializations["CoreML6"]
    assert spec.specificationVersion == ct.target.iOS16
    assert any(op.type == "non_maximum_suppression" for op in block.operations)


@pytest.mark.parametrize(
    ("indices", "fits"), [([3, 1], True), ([1, 3], False), ([3, 3], False), ([3, 9], False)]
)
def test_the_best_are_judged_by_their_probabilities(indices, fits):
    task = lowering.Classify(LABELS, top_k=2, activation="none")
    scores = torch.tensor([[0.1, 0.3, 0.1, 0.4, 0.1]])
    found = task({"x": scores}, {}) | {"top_indices": torch.tensor([indices])}
    ours, theirs = task.judges()["top_indices"](found, {})
    assert torch.allclose(ours, theirs) == fits
    ours, theirs = task.judges()["top_scores"](
        found | {"top_scores": torch.tensor([[0.4, 0.1]])}, {}
    )
    assert not torch.allclose(ours, theirs)
