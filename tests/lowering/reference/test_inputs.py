"""Inputs and outputs in the model's own terms, and what is said about those that do not fit."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

from lowering.reference import InputError, load, predict
from tests.lowering.reference.reference_models import converted, program_of


class Double(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


@pytest.fixture(scope="module")
def doubled() -> ct.models.MLModel:
    return converted(Double(), torch.ones(2, 3))


def _only(outputs: dict) -> np.ndarray:
    (value,) = outputs.values()
    return value


@pytest.mark.parametrize(
    "given",
    [
        np.ones((2, 3)),
        np.ones((2, 3), np.float16),
        np.ones((2, 3), np.int64),
        torch.ones(2, 3),
        [[1, 1, 1], [1, 1, 1]],
        np.ones((3, 2)).T,
    ],
)
def test_arrays_of_any_numeric_type_are_taken(doubled, given) -> None:
    np.testing.assert_array_equal(_only(predict(doubled, {"x0": given})), np.full((2, 3), 2.0))


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({}, "missing x0"),
        ({"x0": np.ones((2, 3)), "y": 1}, "unknown y"),
        ({"x0": np.ones((3, 2))}, r"expected: \(2, 3\)\s+found: \(3, 2\)"),
        ({"x0": np.ones(6)}, "wrong shape"),
        ({"x0": np.ones((2, 3), complex)}, "wrong type"),
        ({"x0": np.full((2, 3), "a")}, "wrong type"),
        ({"x0": [[1, 2], [3]]}, "not an array"),
        ({"x0": {"a": 1}}, "wrong type"),
        ({"x0": None}, "missing x0|wrong type"),
    ],
)
def test_what_does_not_fit_is_named(doubled, inputs, text) -> None:
    with pytest.raises(InputError, match=text):
        predict(doubled, inputs)


def test_unknown_precision(doubled) -> None:
    with pytest.raises(InputError, match="one of fp16, strict, fp32"):
        predict(doubled, {"x0": np.ones((2, 3))}, precision="fp8")


def test_integers_keep_their_value() -> None:
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    program = program_of(lambda x: mb.add(x=x, y=np.int32(1)), (3,), types.int32)
    big = np.array([2**31 - 2, -(2**31), 16777217])
    np.testing.assert_array_equal(_only(predict(program, {"x": big})), big + 1)
    with pytest.raises(InputError, match="does not fit int32"):
        predict(program, {"x": np.array([2**31, 0, 0])})
    with pytest.raises(InputError, match="fractions"):
        predict(program, {"x": np.array([0.5, 0, 0])})
    with pytest.raises(InputError, match="fractions, NaN or infinity"):
        predict(program, {"x": np.array([np.nan, 0, 0])})


def _traced(shape) -> ct.models.MLModel:
    return ct.convert(
        torch.jit.trace(Double(), torch.ones(4, 3)),
        inputs=[ct.TensorType("x", shape)],
        minimum_deployment_target=ct.target.iOS17,
    )


def test_flexible_shapes() -> None:
    shape = (ct.RangeDim(1, 4), 3)
    loaded = load(_traced(shape))
    for rows in (1, 2, 4):
        assert _only(loaded({"x": np.ones((rows, 3))})).shape == (rows, 3)
    for rows in (0, 5):
        with pytest.raises(InputError, match=r"\(1\.\.4, 3\)"):
            loaded({"x": np.ones((rows, 3))})
    shapes = ct.EnumeratedShapes(shapes=[(1, 3), (4, 3)], default=(4, 3))
    listed = load(_traced(shapes))
    for rows in (1, 4):
        assert _only(listed({"x": np.ones((rows, 3))})).shape == (rows, 3)
    with pytest.raises(InputError, match=r"one of .*\(1, 3\)"):
        listed({"x": np.ones((2, 3))})


def test_images_in_and_out() -> None:
    image_module = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 100, (4, 5, 3)).astype(np.uint8)
    image = image_module.fromarray(pixels)
    for layout in ("RGB", "BGR"):
        model = ct.convert(
            torch.jit.trace(Double(), torch.ones(1, 3, 4, 5)),
            inputs=[ct.ImageType("x", (1, 3, 4, 5), color_layout=layout)],
            outputs=[ct.ImageType("y", color_layout="RGB")],
            minimum_deployment_target=ct.target.iOS16,
        )
        found = np.asarray(predict(model, {"x": image})["y"])
        expected = 2 * (pixels if layout == "RGB" else pixels[..., ::-1])
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(InputError, match="must be an image"):
        predict(model, {"x": np.ones((1, 3, 4, 5))})
    with pytest.raises(InputError, match=r"image mode[\s\S]*RGB[\s\S]*found: L"):
        predict(model, {"x": image.convert("L")})
    with pytest.raises(InputError, match="found: 4 x 5"):
        predict(model, {"x": image.resize((4, 5))})


@pytest.mark.parametrize("labels", [["cat", "dog", "bird"], [7, 8, 9]])
def test_classifier(labels: list) -> None:
    model = ct.convert(
        torch.jit.trace(nn.Softmax(-1), torch.ones(1, 3)),
        inputs=[ct.TensorType("x", (1, 3))],
        classifier_config=ct.ClassifierConfig(labels),
        minimum_deployment_target=ct.target.iOS16,
    )
    outputs = predict(model, {"x": np.array([[0.0, 2.0, 1.0]])})
    assert outputs["classLabel"] == labels[1]
    (table,) = [value for value in outputs.values() if isinstance(value, dict)]
    assert list(table) == labels
    expected = np.exp([0, 2, 1]) / np.exp([0, 2, 1]).sum()
    np.testing.assert_allclose(list(table.values()), expected, atol=1e-3)


def test_the_callers_array_is_neither_kept_nor_changed(doubled) -> None:
    array = np.ones((2, 3), np.float32)
    output = _only(predict(doubled, {"x0": array}))
    output[:] = 9
    array[:] = 5
    assert (_only(predict(doubled, {"x0": array})) == 10).all()


def test_a_scalar_index_gathers_a_scalar() -> None:
    from coremltools.converters.mil.mil import Builder as mb

    def build(x):
        size = mb.gather(x=mb.shape(x=x), indices=np.int32(0), axis=0)
        return mb.fill(shape=mb.stack(values=[size, size], axis=0), value=1.0)

    assert _only(predict(program_of(build, (3, 2)), {"x": np.ones((3, 2))})).shape == (3, 3)
