"""Packages with labels: what they return, and every verb on them."""

import json
import warnings

import coremltools as ct
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import passes
from lowering import convert, load, report, save, verify
from lowering.cli import main
from lowering.conversion.classifier import LogitsWarning
from lowering.errors import LoweringError


class Scores(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 5)

    def forward(self, x):
        features = self.body(x)
        return {"features": features, "scores": features.softmax(-1), "twice": features * 2}


LABELS = ["ant", "bee", "cat", "dog", "eel"]


@pytest.mark.parametrize("labels", [LABELS, [10, 20, 30, 40, 50]])
@pytest.mark.parametrize("precision", [ct.precision.FLOAT16, ct.precision.FLOAT32])
def test_classifiers(labels, precision, tmp_path):
    model, inputs = Scores().eval(), (torch.randn(1, 4),)
    config = ct.ClassifierConfig(labels, predicted_probabilities_output="scores")
    optimized = passes.optimize_for_ane(model, inputs)
    package = convert(
        optimized, classifier_config=config, compute_precision=precision, skip_model_load=True
    )
    assert config.class_labels is labels
    found = load(package)({"x": inputs[0].numpy()})
    assert list(found) == ["classLabel", "classLabel_probs", "features", "twice"]
    want = model(*inputs)
    assert found["classLabel"] == labels[int(want["scores"].argmax())]
    np.testing.assert_allclose(
        list(found["classLabel_probs"].values()), want["scores"][0].detach(), atol=2e-3
    )
    held = verify(package, model, inputs)
    assert held, held
    assert [item.name for item in held.outputs] == ["features", "scores", "twice"]
    model.body.bias.data[2] += 1
    assert not verify(package, model, inputs)
    path = save(package, tmp_path / "labels.mlpackage")
    for command in (["plan", path], ["compare", path, path], ["predict", path]):
        result = CliRunner().invoke(main, [*map(str, command)])
        assert result.exit_code == 0, (command, result.output)
    page = tmp_path / "report.html"
    report(path, model, inputs, output=page)
    assert "scores" in page.read_text()
    result = CliRunner().invoke(main, ["predict", str(path), "--output-dir", str(tmp_path / "o")])
    assert result.exit_code == 0, result.output
    table = json.loads((tmp_path / "o" / "classLabel_probs.json").read_text())
    assert list(table) == [str(label) for label in labels]
    assert json.loads((tmp_path / "o" / "classLabel.json").read_text()) in labels
    assert np.load(tmp_path / "o" / "features.npy").shape == (1, 5)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def made(function, labels=LABELS, **named):
    config = ct.ClassifierConfig(labels, **named)
    return convert(
        Function(function), (torch.randn(1, 5),), classifier_config=config, skip_model_load=True
    )


@pytest.mark.parametrize("count", [1, 4, 6])
def test_labels_that_do_not_match_are_told_with_both_numbers(count):
    labels = [f"label {index}" for index in range(count)]
    with pytest.raises(LoweringError, match=f"{count} labels for the 5 scores of output 'output'"):
        made(lambda x: x.softmax(-1), labels)
    with pytest.raises(LoweringError, match=f"{count} labels are for[\\s\\S]*a with 5, b with 3"):
        made(lambda x: {"a": x.softmax(-1), "b": x[:, :3]}, labels)


def test_the_output_that_the_labels_are_for():
    def two(x):
        return {"part": x[:, :3], "all": x.softmax(-1)}

    found = load(made(two))({"x": np.zeros((1, 5), np.float32)})
    assert list(found) == ["classLabel", "classLabel_probs", "part"]
    with pytest.raises(LoweringError, match="'no' are no output of the model"):
        made(two, predicted_probabilities_output="no")
    with pytest.raises(LoweringError, match="has the name of an input or output"):
        made(two, predicted_feature_name="part")
    with pytest.raises(LoweringError, match="labels must be texts or whole numbers"):
        made(two, ["a", "a", "b", "c", "d"])
    with pytest.raises(LoweringError, match="labels cannot be read"):
        made(two, "no such file.txt")


def test_labels_of_a_file(tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    package = made(lambda x: x.softmax(-1), str(tmp_path / "labels.txt"))
    found = load(package)({"x": np.array([[0.0, 0, 3, 0, 0]])})
    assert found["classLabel"] == "cat"


@pytest.mark.parametrize(
    "scores",
    [
        lambda x: x * 2,
        lambda x: x.log_softmax(-1),
        lambda x: x.relu().reshape(5),
        lambda x: x.softmax(-1) * 3,
    ],
)
def test_scores_that_are_no_probabilities_draw_a_warning(scores):
    with pytest.warns(LogitsWarning, match="'output' is not made by a softmax"):
        made(scores)


@pytest.mark.parametrize(
    "scores",
    [
        lambda x: x.softmax(-1),
        lambda x: x.sigmoid(),
        lambda x: x.log_softmax(-1).exp(),
        lambda x: x.exp() / x.exp().sum(-1, keepdim=True),
        lambda x: x.softmax(-1).reshape(5),
    ],
)
def test_probabilities_draw_none(scores):
    with warnings.catch_warnings():
        warnings.simplefilter("error", LogitsWarning)
        made(scores)
