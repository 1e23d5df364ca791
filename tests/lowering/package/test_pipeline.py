"""Pipelines are run, planned and verified as the program that they amount to."""

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.models import datatypes
from coremltools.models.neural_network import NeuralNetworkBuilder
from coremltools.proto import Model_pb2
from torch import nn

from lowering import convert, load, plan, predict, verify
from lowering.ablation.compare import compare
from lowering.errors import PackageError
from lowering.package.open import open_package
from lowering.package.pipeline import SUPPRESSION

X = torch.randn(1, 8)


def part(seed, names=("x", "h"), sizes=(8, 8), precision=None):
    """A converted Linear with a ReLU, its input and output named."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(*sizes), nn.ReLU()).eval()
    made = convert(module, (torch.randn(1, sizes[0]),), skip_model_load=True, **(precision or {}))
    spec = made.get_spec()
    for old, new in zip(("input", "output"), names, strict=True):
        ct.utils.rename_feature(spec, old, new)
    return module, ct.models.MLModel(spec, weights_dir=made.weights_dir, skip_model_load=True)


def pipeline(*models):
    return ct.utils.make_pipeline(*models, compute_units=ct.ComputeUnit.CPU_ONLY)


@pytest.mark.parametrize("stages", [2, 3, 5])
def test_a_pipeline_of_programs(tmp_path, stages):
    parts = [part(seed, (f"v{seed}", f"v{seed + 1}")) for seed in range(stages)]
    made = pipeline(*(model for _, model in parts))
    made.save(str(tmp_path / "p.mlpackage"))
    whole = nn.Sequential(*(module for module, _ in parts))
    for source in (tmp_path / "p.mlpackage", made):
        found = predict(source, {"v0": X.numpy()})
        assert list(found) == [f"v{stages}"]
        np.testing.assert_allclose(found[f"v{stages}"], whole(X).detach(), rtol=0.02, atol=0.01)
    assert verify(tmp_path / "p.mlpackage", whole, (X,))
    planned = plan(tmp_path / "p.mlpackage")
    assert [op.op_type for op in planned.ops].count("linear") == stages
    assert "identity" not in {op.op_type for op in planned.ops}
    assert compare(tmp_path / "p.mlpackage", tmp_path / "p.mlpackage").output_difference


def test_stages_of_two_precisions(tmp_path):
    first, one = part(0, precision={"compute_precision": ct.precision.FLOAT32})
    second, other = part(1, ("h", "y"))
    made = pipeline(one, other)
    found = predict(made, {"x": X.numpy()})["y"]
    np.testing.assert_allclose(found, second(first(X)).detach(), rtol=0.02, atol=0.01)
    assert "cast" in {op.op_type for op in plan(made).ops}


def test_a_later_stage_reads_what_an_earlier_one_read():
    first, one = part(0, ("x", "h"))
    second, other = part(1, ("x", "y"))
    found = predict(pipeline(one, other), {"x": X.numpy()})
    assert set(found) == {"h", "y"}
    np.testing.assert_allclose(found["y"], second(X).detach(), rtol=0.02, atol=0.01)
    np.testing.assert_allclose(found["h"], first(X).detach(), rtol=0.02, atol=0.01)


def detector(tmp_path, per_class=True, optional=False, boxes=16, classes=3):
    """What exporters of detectors write: a program, and suppression of its boxes behind it."""

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.scores = nn.Linear(8, boxes * classes)
            self.boxes = nn.Linear(8, boxes * 4)

        def forward(self, x):
            scores = torch.sigmoid(self.scores(x)).reshape(boxes, classes)
            return scores, torch.sigmoid(self.boxes(x)).reshape(boxes, 4)

    module = Heads().eval()
    made = convert(module, (X,), skip_model_load=True)
    spec = made.get_spec()
    for old, new in zip([f.name for f in spec.description.output], ("c", "b"), strict=True):
        ct.utils.rename_feature(spec, old, new)
    suppress = Model_pb2.Model(specificationVersion=5)
    for index, name in enumerate(("c", "b")):
        suppress.description.input.add().CopyFrom(spec.description.output[index])
        kept = suppress.description.output.add()
        kept.CopyFrom(spec.description.output[index])
        kept.name = {"c": "confidence", "b": "coordinates"}[name]
        del kept.type.multiArrayType.shape[:]
    nms = suppress.nonMaximumSuppression
    nms.confidenceInputFeatureName, nms.coordinatesInputFeatureName = "c", "b"
    nms.confidenceOutputFeatureName = "confidence"
    nms.coordinatesOutputFeatureName = "coordinates"
    nms.iouThresholdInputFeatureName = "iouThreshold"
    nms.confidenceThresholdInputFeatureName = "confidenceThreshold"
    nms.iouThreshold, nms.confidenceThreshold = 0.45, 0.3
    nms.pickTop.perClass = per_class
    whole = Model_pb2.Model(specificationVersion=8)
    whole.pipeline.models.extend([spec, suppress])
    whole.description.input.add().CopyFrom(spec.description.input[0])
    if optional:
        for name in ("iouThreshold", "confidenceThreshold"):
            added = whole.description.input.add()
            added.name = name
            added.type.doubleType.SetInParent()
    whole.description.output.extend(suppress.description.output)
    model = ct.models.MLModel(whole, weights_dir=made.weights_dir, skip_model_load=True)
    model.save(str(tmp_path / "d.mlpackage"))
    return module, tmp_path / "d.mlpackage"


def expected(module, iou, confidence, per_class):
    """Plainly: the best box goes first, and takes those away that overlap it."""
    scores, boxes = (value.detach().half().double() for value in module(X))
    left = scores.max(1).values.argsort(descending=True).tolist()
    left = [i for i in left if scores[i].max() >= confidence]
    kept = []
    while left:
        best, *left = left
        kept.append(best)
        left = [
            i
            for i in left
            if (per_class and scores[i].argmax() != scores[best].argmax())
            or _iou(boxes[i], boxes[best]) <= iou
        ]
    return scores[kept], boxes[kept]


def _iou(a, b):
    sides = [
        max(0.0, float(min(a[k] + a[k + 2] / 2, b[k] + b[k + 2] / 2))
        - float(max(a[k] - a[k + 2] / 2, b[k] - b[k + 2] / 2)))
        for k in (0, 1)
    ]  # fmt: skip
    both = sides[0] * sides[1]
    return both / float(a[2] * a[3] + b[2] * b[3] - both)


@pytest.mark.parametrize("per_class", [True, False])
@pytest.mark.parametrize("given", [{}, {"iouThreshold": 0.1}, {"confidenceThreshold": 0.6}])
def test_boxes_are_suppressed(tmp_path, per_class, given):
    module, path = detector(tmp_path, per_class, optional=True)
    inputs = {next(iter(load(path).inputs)): X.numpy()}
    found = predict(path, {**inputs, **{k: np.array([v], np.float32) for k, v in given.items()}})
    scores, boxes = expected(
        module, given.get("iouThreshold", 0.45), given.get("confidenceThreshold", 0.3), per_class
    )
    assert 0 < len(scores) < 16
    assert found["confidence"].shape == tuple(scores.shape)
    np.testing.assert_allclose(found["confidence"], scores, atol=2e-3)
    np.testing.assert_allclose(found["coordinates"], boxes, atol=2e-3)


def test_a_detector_is_planned(tmp_path):
    _, path = detector(tmp_path)
    planned = plan(path)
    (op,) = (op for op in planned.ops if op.op_type == SUPPRESSION)
    assert op.device == "cpu" and op.reason is not None
    assert any(op.device == "cpu" for op in planned.ops)
    assert set(load(path).inputs) == {"input"} or len(load(path).inputs) == 1


def test_stages_of_other_kinds_are_named(tmp_path):
    _, path = detector(tmp_path)
    builder = NeuralNetworkBuilder(
        [("x", datatypes.Array(8))], [("y", datatypes.Array(8))], disable_rank5_shape_mapping=True
    )
    builder.add_activation("relu", "RELU", "x", "y")
    tree = Model_pb2.Model(specificationVersion=4)
    tree.treeEnsembleRegressor.treeEnsemble.numPredictionDimensions = 1
    for stage, what in (
        (builder.spec, "a neural network"),
        (tree, "a tree ensemble"),
        (Model_pb2.Model(), "an empty model"),
    ):
        rewrite(path, lambda spec, stage=stage: spec.pipeline.models[1].CopyFrom(stage))
        with pytest.raises(PackageError, match=f"stage 2 of the pipeline is {what}"):
            open_package(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec.pipeline.models.pop(0),
        lambda spec: setattr(spec.description.output[0], "name", "nowhere"),
        lambda spec: spec.pipeline.models[0].mlProgram.functions.clear(),
        lambda spec: spec.description.input.pop(),
        lambda spec: spec.pipeline.models.__delitem__(slice(None)),
    ],
)
def test_stages_that_do_not_fit(tmp_path, change):
    _, path = detector(tmp_path)
    rewrite(path, change)
    with pytest.raises(PackageError) as caught:
        open_package(path)
    assert caught.value.details["next step"] and caught.value.details["found"]


def rewrite(package, change):
    file = package / "Data/com.apple.CoreML/model.mlmodel"
    spec = Model_pb2.Model()
    spec.ParseFromString(file.read_bytes())
    change(spec)
    file.write_bytes(spec.SerializeToString())
