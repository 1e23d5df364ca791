"""What decides which boxes are kept stays in float32, from the last layers on."""

import pytest
import torch
from torch import nn

import lowering
from frontend.ops import nms
from lowering.package.dtypes import FP16, FP32
from lowering.reference import load


class Detector(nn.Module):
    """A layer, distances from shares as YOLO has them or boxes as they are, scores, suppression."""

    def __init__(self, shares, per_class=True):
        super().__init__()
        torch.manual_seed(0)
        self.shares, self.per_class = shares, per_class
        self.layer = nn.Conv2d(32, 4 * shares + 3, 1)
        self.sum = nn.Conv2d(shares, 1, 1, bias=False)
        self.sum.weight.data[:] = torch.arange(shares).reshape(1, -1, 1, 1) / 4

    def forward(self, x):
        found = self.layer(x).flatten(2)
        sides = found[:, :-3].reshape(1, 4, self.shares, -1).transpose(2, 1)
        if self.shares > 1:
            sides = self.sum(sides.softmax(1))
        boxes = sides.reshape(1, 4, -1).transpose(1, 2).abs() + 1.0
        # Between 0.9997 and 1, where float16 has nothing.
        scores = torch.sigmoid(found[:, -3:].transpose(1, 2) * 0.5 + 9.5)
        place = torch.arange(x.shape[-1] * x.shape[-2]) * 40.0
        centres = torch.stack([place, place * 0], -1)
        boxes = torch.cat([boxes[..., :2] * 0 + centres, boxes[..., 2:]], -1)
        kept, best, rows = nms(boxes, scores, 0.5, 6, self.per_class)
        return kept, best.amax(-1), rows


@pytest.mark.parametrize(("shares", "per_class"), [(1, True), (16, True), (16, False)])
def test_scores_that_float16_cannot_tell_apart_are_ranked(shares, per_class):
    model, x = Detector(shares, per_class).eval(), torch.randn(1, 32, 3, 4)
    package = lowering.convert(model, (x,), skip_model_load=True)
    with torch.no_grad():
        want = model(x)
    assert (want[1].half() == 1).all() and len(set(want[1][0].tolist())) == 6
    got = lowering.predict(package, {"x": x.numpy()})
    rows = next(value for name, value in got.items() if value.dtype.kind == "i")
    assert rows[0].tolist() == want[2][0].tolist()
    assert lowering.verify(package, model, (x,))
    kinds = {op.type: op.outputs[0].dtype for op in load(package).ops if op.outputs}
    assert kinds["sigmoid"] is FP32 and kinds["non_maximum_suppression"] is FP32
    convs = [op.outputs[0].dtype for op in load(package).ops if op.type == "conv"]
    assert convs == ([FP16] if shares == 1 else [FP16, FP32])


def test_programs_without_boxes_are_float16_throughout():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid())
    package = lowering.convert(model, (torch.randn(1, 3, 4, 4),), skip_model_load=True)
    kinds = {op.outputs[0].dtype for op in load(package).ops if op.type in ("conv", "sigmoid")}
    assert kinds == {FP16}


class Coordinates(nn.Module):
    """Layers, coordinates from them by ``decode``, and a value beside that is none."""

    def __init__(self, decode):
        super().__init__()
        self.first, self.last, self.decode = nn.Linear(8, 32), nn.Linear(32, 4), decode

    def forward(self, x):
        hidden = self.first(x).relu()
        return {"place": self.decode(self.last(hidden)), "hidden": hidden.exp()}


@pytest.mark.parametrize(
    ("decode", "operators"),
    [
        (lambda x: x * 3.0 + 500.0, {"mul", "add"}),
        (lambda x: x.sigmoid() * 640.0, {"sigmoid", "mul"}),
        (lambda x: (x[..., :2] - x[..., 2:] * 7.0).exp(), {"slice_by_index", "mul", "sub", "exp"}),
    ],
)
def test_outputs_that_are_exact_are_float32_from_the_last_layer_on(decode, operators):
    model, x = Coordinates(decode).eval(), torch.randn(1, 5, 8)
    package = lowering.convert(model, (x,), exact_outputs=["place"], skip_model_load=True)
    loaded = load(package)
    kinds = {name: feature.dtype for name, feature in loaded.outputs.items()}
    assert kinds == {"place": FP32, "hidden": FP16}
    wide = {op.type for op in loaded.ops if op.outputs and op.outputs[0].dtype is FP32}
    assert wide - {"cast", "const"} == operators
    assert lowering.verify(package, model, (x,))


def test_exact_outputs_must_be_outputs():
    with pytest.raises(lowering.LoweringError, match="does not return"):
        lowering.convert(nn.Linear(2, 2), (torch.randn(1, 2),), exact_outputs=["boxes"])
